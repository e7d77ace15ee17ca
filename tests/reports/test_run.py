from __future__ import annotations

import base64
import dataclasses
import gzip
import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.errors import ResultError
from harness.results import RunWriter, load
from reports.page import EMULATED
from reports.run import render
from reports.terminal import lines
from tests.reports.checks import HOSTILE, checked_page, page_of, rows
from tests.reports.page import Element, parse
from tests.results.synthetic import Synthetic, facts, write_run

SECTIONS = (
    *("key", "side-by-side", "environment", "boot", "exits", "io"),
    *("host", "outcomes", "stages", "method"),
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Element:
    return page_of(tmp_path_factory.mktemp("report"))


def test_header_names_run_host_and_emulation(page: Element) -> None:
    assert page.all("h1")[0].text == "kvm on an emulated host"
    assert EMULATED in page.all("header")[0].text
    table = rows(page.id("environment"))
    assert table["CPU"][1] == "QEMU TCG CPU (synthetic)"
    assert table["Backend"][1] == "emulated"
    assert table["Memory"][1] == "2.0 GiB"
    assert "spectre_v2: Mitigation: Retpolines" in table["Mitigations"][1]
    assert table["Microcode"][1] == "not known"


def test_equal_notes_appear_once(tmp_path: Path) -> None:
    page = page_of(tmp_path, parts="boot", facts={"notes": ["replaced", "other", "replaced"]})
    notes = [one.text for one in page.id("environment").all("p") if "note" in str(one.attributes)]
    assert notes == ["replaced (2 times)", "other"]


def test_slow_control_loop_gives_emulation_banner(tmp_path: Path) -> None:
    hardware = {"emulated": False, "backend": "vmx", "host": "local"}
    boot = page_of(tmp_path / "a", parts="boot", backend="vmx", facts=hardware)
    assert EMULATED not in boot.text
    assert boot.all("h1")[0].text == "kvm on synthetic"
    # the synthetic control loop takes 14 cycles per instruction, more than any real CPU
    exits = page_of(tmp_path / "b", parts="exits", backend="vmx", facts=hardware)
    assert EMULATED in exits.text


def test_every_section_exists_and_is_linked(page: Element) -> None:
    links = [link.attributes["href"] for link in page.all("nav")[0].all("a")]
    for name in SECTIONS:
        assert page.id(name).tag == "section"
        assert f"#{name}" in links
    assert not [e for e in page.everything() if "placeholder" in e.attributes.get("class", "")]


def test_key_figures_have_sentences(page: Element) -> None:
    keys = {card.all("dt")[0].text: card.text for card in page.id("key").all("div")}
    assert {"Boot to ready", "Cheapest exit", "Costliest exit", "Host busy", "Tests"} <= set(keys)
    assert {"I/O throughput lost", "I/O latency added"} <= set(keys)
    assert "5 boots" in keys["Boot to ready"]
    assert "kvm (emulated)" in keys["Boot to ready"]
    assert "cpuid" in keys["Cheapest exit"]
    assert "pio_user" in keys["Costliest exit"]
    assert "of 2 CPUs" in keys["Host busy"]
    assert "1 skipped" in keys["Tests"]


def test_key_figures_name_the_hypervisor_of_several(tmp_path: Path) -> None:
    page = page_of(tmp_path, parts="boot exits", facts={"hypervisor": "kvm, qemu"})
    labels = [card.all("dt")[0].text for card in page.id("key").all("div")]
    assert labels[:3] == ["Boot to ready, kvm", "Cheapest exit, kvm", "Costliest exit, kvm"]


def test_figures_match_the_samples(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    _, frame = load(run)
    page = parse(render(run, tmp_path / "page.html").read_text(encoding="utf-8"))
    ready = frame[frame["metric"] == "boot.ready"]["value"]
    table = rows(page.id("boot"))["ready"]
    assert table[1] == f"{ready.median():.2f}"
    assert table[3] == f"{ready.min():.2f}"
    assert table[-2:] == ["5", "5"]
    costs = rows(page.id("exits"))
    assert list(costs) == ["control", "cpuid", "hypercall_null", "pio_kernel", "pio_user"]
    raw = frame[frame["metric"] == "exit.pio_user"].groupby("boot")["value"].median()
    control = frame[frame["metric"] == "exit.control"].groupby("boot")["value"].median()
    assert costs["pio_user"][1] == f"{(raw - control).median():,.0f}"
    assert "1.31 exits per operation, expected 1" in costs["pio_kernel"][0]
    assert "expected" not in costs["cpuid"][0]


def test_captions_name_boots_and_backend(page: Element) -> None:
    figures = page.all("figure")
    assert len(figures) == 6  # boot, exits, two of I/O, CPU, memory
    for figure in figures:
        caption = figure.all("figcaption")[0].text
        assert "n = " in caption
        assert "emulated" in caption
        assert "boot" in caption or "ticks" in caption
        for svg in figure.all("svg"):
            assert svg.attributes["role"] == "img"
            for name in svg.attributes["aria-labelledby"].split():
                assert page.id(name).text
    ids = [e.attributes["id"] for e in page.everything() if "id" in e.attributes]
    assert len(ids) == len(set(ids))


def test_page_is_self_contained_and_accessible(page: Element, tmp_path: Path) -> None:
    assert len(page.all("table")) == 8
    checked_page(render(write_run(tmp_path), tmp_path / "page.html").read_text(encoding="utf-8"))


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    writer = RunWriter(
        tmp_path,
        facts(
            cpu_model=HOSTILE,
            why=HOSTILE,
            host=HOSTILE,
            command=f"pytest {HOSTILE} \udcff",
            outcomes={HOSTILE: 1},
            stages={HOSTILE: 1.0},
            mitigations={HOSTILE: HOSTILE},
            notes=[HOSTILE],
        ),
    )
    maker = Synthetic(writer.run, test=HOSTILE, hypervisor=HOSTILE, backend=HOSTILE)
    for sample in maker.everything():
        metric = sample.metric.replace("cpuid", HOSTILE.replace(".", ""))
        changed: dict[str, Any] = {
            "parameters": {**sample.parameters, HOSTILE: HOSTILE},
            "metric": metric,
        }
        writer.add(dataclasses.replace(sample, **changed))
    html = render(writer.close(), tmp_path / "page.html").read_text(encoding="utf-8")
    page = checked_page(html)
    assert HOSTILE in page.id("environment").text
    assert "49" not in rows(page.id("environment"))["CPU"][1]
    assert HOSTILE in page.id("exits").text


@pytest.mark.parametrize(
    ("parts", "section"),
    [("exits io", "boot"), ("boot io", "exits"), ("boot exits", "io")],
)
def test_suite_without_samples_has_no_section(tmp_path: Path, parts: str, section: str) -> None:
    page = page_of(tmp_path, parts=parts)
    assert section not in [e.attributes.get("id") for e in page.everything()]
    assert f"#{section}" not in [a.attributes["href"] for a in page.all("nav")[0].all("a")]


def test_missing_utilization_is_reported(tmp_path: Path) -> None:
    page = page_of(tmp_path, parts="boot exits io")
    assert "This run has no utilization samples of the host." in page.id("host").text


def test_metrics_of_a_users_own_suite_are_key_figures(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "store", facts())
    maker = Synthetic(writer.run)
    for boot in range(6):
        writer.add(maker.sample("db.commit", 4.0 + boot, "ms", "lower", boot=boot))
        writer.add(maker.sample("scheduler.wake", 1.0, "us", "lower", boot=boot))
    page = parse(render(writer.close(), tmp_path / "page.html").read_text(encoding="utf-8"))
    cards = {card.all("dt")[0].text: card.text for card in page.id("key").all("div")}
    assert "6.50 ms" in cards["db.commit"]
    assert "median of 6 boots, n = 6, 95 % interval" in cards["db.commit"]
    assert "scheduler.wake" not in cards, "a suite of this project has its own tables"


@pytest.mark.parametrize("boots", [2, 5])
def test_few_boots_have_a_range_and_no_95_percent(tmp_path: Path, boots: int) -> None:
    writer = RunWriter(tmp_path / "store", facts())
    maker = Synthetic(writer.run)
    for boot in range(boots):
        writer.add(maker.sample("db.commit", 4.0 + boot, "ms", "lower", boot=boot))
        writer.add(maker.sample("boot.ready", 4.0 + boot, "s", "lower", boot=boot))
    printed = "\n".join(lines(writer.close()))
    last = 3 + boots
    assert (
        f"median of {boots} boots, n = {boots}, range of few boots 4.00 to {last}.00 ms" in printed
    )
    assert f"median of {boots} boots, range of few boots 4.00 to {last}.00 s" in printed
    assert "95 %" not in printed


@pytest.mark.parametrize(("boots", "heading"), [(5, "Interval"), (6, "95 % interval")])
def test_headings_of_intervals_name_no_confidence_of_few_boots(
    tmp_path: Path, boots: int, heading: str
) -> None:
    page = page_of(tmp_path, boots=boots)
    for name, column in (("boot", f"{heading}, s"), ("exits", f"{heading}, ns")):
        heads = page.id(name).all("thead")[0].all("th")
        assert column in [head.text for head in heads]


def test_interrupted_run_and_hypervisor_without_figures_are_reported(tmp_path: Path) -> None:
    stopped = {"exit_status": 2, "hypervisor": "kvm, qemu"}
    page = page_of(tmp_path, parts="boot", facts=stopped)
    assert "Interrupted run: its session was ended before its last test." in page.text
    assert "this run has no figures of qemu" in page.id("side-by-side").text


def test_empty_run(tmp_path: Path) -> None:
    run = RunWriter(tmp_path, {}).close()
    page = parse(render(run, tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "This run has no samples." in page.text
    assert "outcomes of the tests are not known" in page.id("outcomes").text
    assert "durations of the stages are not known" in page.id("stages").text
    assert lines(run) == ["This run has no samples."]


def test_single_boot_failures_and_incomplete_run_are_reported(tmp_path: Path) -> None:
    incomplete = {"outcomes": {"failed": 2, "passed": 1}, "complete": False, "lost_lines": 1}
    page = page_of(tmp_path, boots=1, facts=incomplete)
    banner = page.all("header")[0].text
    assert "Incomplete run" in banner
    assert "2 of 3 tests failed" in banner
    assert "one boot: no interval" in page.id("boot").text
    assert "one boot: no interval" in page.id("io").text
    assert list(rows(page.id("outcomes"))) == ["passed", "failed"]


def test_failed_tests_are_named(tmp_path: Path) -> None:
    failures = {"tests/test_a.py::test_one[kvm]": "failed", HOSTILE: "error"}
    outcomes = {"failed": 1, "error": 2, "passed": 1}
    run = write_run(
        tmp_path / "store", parts="boot", facts={"outcomes": outcomes, "failures": failures}
    )
    page = checked_page(render(run, tmp_path / "page.html").read_text(encoding="utf-8"))
    _, table = page.id("outcomes").all("table")
    assert "Tests that failed: the first 2 of 3" in table.text
    assert "tests/test_a.py::test_one[kvm]" in table.text
    assert HOSTILE in table.text


def test_repeated_attempts_are_no_tests(tmp_path: Path) -> None:
    page = page_of(tmp_path, facts={"outcomes": {"failed": 1, "passed": 5, "rerun": 1}})
    assert "1 of 6 tests failed" in page.all("header")[0].text
    section = page.id("outcomes")
    assert "Outcomes of 6 tests" in section.text
    assert rows(section)["rerun"][1:] == ["1", "–"]


def test_raw_data_are_complete(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    page = parse(render(run, tmp_path / "page.html").read_text(encoding="utf-8"))
    link = page.id("download")
    assert link.attributes["download"] == f"{run.stem}.csv.gz"
    packed = base64.b64decode(link.attributes["href"].split(",")[1])
    raw = pd.read_csv(io.BytesIO(gzip.decompress(packed)), keep_default_na=False)
    _, frame = load(run)
    assert list(raw.columns) == list(frame.columns)
    assert raw["value"].tolist() == frame["value"].tolist()
    assert raw["parameters"].tolist() == frame["parameters"].tolist()


@pytest.mark.slow
def test_page_with_many_samples_stays_small(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path, facts())
    maker = Synthetic(writer.run, boots=20)
    for sample in [*maker.boot(), *maker.exits(), *maker.utilization(ticks=4000)]:
        writer.add(sample)
    out = render(writer.close(), tmp_path / "page.html")
    assert out.stat().st_size < 1 << 20
    page = parse(out.read_text(encoding="utf-8"))
    assert "the first 12 are shown" in page.id("boot").text
    assert "page cannot hold all" in page.id("raw").text


def test_failed_write_keeps_the_old_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "store", parts="boot")
    (tmp_path / "old").mkdir()
    with pytest.raises(ResultError, match="cannot be written"):
        render(run, tmp_path / "old")
    assert (tmp_path / "old").is_dir()
    assert not list(tmp_path.glob("*.tmp"))


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from harness.__main__ import main

    run = write_run(tmp_path / "store", parts="boot")
    assert main(["report", "run", "--results", str(tmp_path / "store")]) == 0
    assert capsys.readouterr().out.strip() == str(run.with_suffix(".html"))
    assert main(["report", "run", str(run), "-o", str(tmp_path / "out.html")]) == 0
    assert (tmp_path / "out.html").stat().st_size > 5000
    assert main(["report", "run", str(tmp_path / "absent.parquet")]) == 1
    assert "no such run file" in capsys.readouterr().err


def test_terminal_summary(tmp_path: Path) -> None:
    summary = lines(write_run(tmp_path))
    assert summary[0] == EMULATED
    assert len(summary) == 8
    assert any(line.startswith("Boot to ready") and "5 boots" in line for line in summary)
