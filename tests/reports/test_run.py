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
from reports.side_by_side import NOISY_HOST
from reports.terminal import lines
from tests.reports.checks import HOSTILE, checked_page, rows
from tests.reports.page import Element, parse
from tests.results.synthetic import Synthetic, facts, write_run

SECTIONS = (
    *("key", "side-by-side", "environment", "boot", "exits", "io"),
    *("host", "outcomes", "stages", "method"),
)


def page_of(directory: Path, **more: Any) -> Element:
    run = write_run(directory / "store", **more)
    return parse(render(run, directory / "page.html").read_text(encoding="utf-8"))


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


def test_hypervisors_are_compared_side_by_side(page: Element) -> None:
    section = page.id("side-by-side")
    (table,) = section.all("table")  # of what natively has figures: the disk's
    assert "Disk: native, kvm" in table.text
    cells = rows(section)["iops"]
    assert cells[5].endswith(" % worse")
    numbers = [cell.replace(",", "").removesuffix(" % worse") for cell in cells[3:6]]
    native, guest, worse = map(float, numbers)
    assert worse == pytest.approx(100 * (1 - guest / native), abs=1.0)
    low, high = cells[6].removesuffix(" %").split(" to ")
    assert float(low) <= worse <= float(high)
    # a flag of all rows appears once, below the table
    assert "few boots" not in table.text
    assert "All of Disk: few boots (5)" in section.text


def test_single_hypervisor_gets_a_hint(tmp_path: Path) -> None:
    assert (
        "Repeat the option --hypervisor" in page_of(tmp_path, parts="boot").id("side-by-side").text
    )


def test_first_hypervisor_is_baseline_without_native(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "store", facts(hypervisor="qemu, kvm"))
    for sample in Synthetic(writer.run, boots=6, hypervisor="qemu").boot():
        writer.add(sample)
        writer.add(dataclasses.replace(sample, hypervisor="kvm", value=sample.value / 2))
    out = render(writer.close(), tmp_path / "page.html")
    document = parse(out.read_text(encoding="utf-8"))
    table = rows(document.id("side-by-side"))["ready"]
    assert document.id("side-by-side").all("caption")[0].text == "Boot: qemu, kvm"
    assert table[5] == "50 % better"
    assert table[7] == "better"


def side_by_side(directory: Path, figures: dict[str, dict[str, list[float]]]) -> Element:
    """The section of a run. figures: metric -> hypervisor -> one value for each boot."""
    names = dict.fromkeys(name for sides in figures.values() for name in sides)
    writer = RunWriter(directory / "store", facts(hypervisor=", ".join(names)))
    for metric, sides in figures.items():
        for name, values in sides.items():
            maker = Synthetic(writer.run, hypervisor=name)
            for boot, value in enumerate(values):
                writer.add(maker.sample(metric, value, "s", "lower", boot=boot))
    out = render(writer.close(), directory / "page.html")
    return parse(out.read_text(encoding="utf-8")).id("side-by-side")


def figure_cells(section: Element, metric: str) -> dict[str, str]:
    """The cells of a figure's row, by the label of the column."""
    for table in section.all("table"):
        heads = [head.text for head in table.all("thead")[0].all("th")]
        if cells := rows(table).get(metric):
            return dict(zip(heads, cells, strict=True))
    raise AssertionError(f"no row of {metric}")


def near(value: float) -> list[float]:
    return [value * part for part in (0.99, 0.995, 1.0, 1.002, 1.005, 1.01)]


WILD = [0.85, 0.86, 0.95, 1.05, 1.14, 1.15]


def test_machines_are_compared_with_native_and_first_machine(tmp_path: Path) -> None:
    section = side_by_side(
        tmp_path,
        {
            "io.all": {"native": near(1.0), "kvm": near(2.0), "qemu": near(3.0)},
            "io.guests": {"kvm": near(2.0), "qemu": near(1.0)},
            "net.guests": {"kvm": near(2.0), "qemu": near(3.0)},
        },
    )
    everywhere = figure_cells(section, "all")
    assert everywhere["kvm vs native"] == "100 % worse"
    assert everywhere["qemu vs native"] == "200 % worse"
    assert everywhere["qemu vs kvm"] == "50 % worse"
    assert everywhere["qemu vs kvm, verdict"] == "worse"
    guests = figure_cells(section, "guests")
    assert guests["qemu vs kvm"] == "50 % better"
    assert guests["qemu vs kvm, verdict"] == "better"
    for head in ("kvm vs native", "kvm vs native, 95 %", "kvm vs native, verdict"):
        assert guests[head] == "–"
    network = section.all("table")[1]
    assert "qemu vs kvm" in network.text
    assert "native" not in network.text, "native has no network figures"


def test_no_difference_is_not_inconclusive(tmp_path: Path) -> None:
    section = side_by_side(
        tmp_path,
        {
            "boot.same": {"kvm": near(1.0), "qemu": near(1.0)},
            "boot.wild": {"kvm": WILD, "qemu": WILD},
            "boot.few": {"kvm": near(1.0)[:3], "qemu": near(1.0)[:3]},
        },
    )
    assert figure_cells(section, "same")["qemu vs kvm, verdict"] == "no difference"
    assert figure_cells(section, "wild")["qemu vs kvm, verdict"] == "inconclusive"
    assert figure_cells(section, "few")["qemu vs kvm, verdict"] == "inconclusive"
    assert "Inconclusive: too few boots or too much noise for a verdict." in section.text


def test_aa_difference_is_the_noise_floor(tmp_path: Path) -> None:
    """The medians of kvm and kvm-2 are equal by chance; their interval allows 27 %."""
    twins = {"kvm": WILD, "kvm-2": WILD}
    section = side_by_side(
        tmp_path,
        {
            "boot.small": {**twins, "qemu": near(1.2)},
            "boot.great": {**twins, "qemu": near(2.0)},
            "boot.equal": {**twins, "qemu": near(1.0)},
            "boot.alone": {"kvm": WILD, "qemu": near(1.2)},
        },
    )
    names = ("small", "great", "equal", "alone")
    verdicts = {name: figure_cells(section, name)["qemu vs kvm, verdict"] for name in names}
    assert verdicts["small"] == "inconclusive"
    assert verdicts["great"] == "worse"
    assert verdicts["equal"] == "inconclusive", "noise is no proof"
    assert verdicts["alone"] == "worse", "there is no A/A pair"
    assert figure_cells(section, "equal")["kvm-2 vs kvm, verdict"] == "inconclusive", (
        "an A/A pair has no noise floor"
    )
    assert "Warning" not in section.text


def test_aa_difference_gives_a_warning(tmp_path: Path) -> None:
    section = side_by_side(
        tmp_path,
        {
            "boot.drifts": {
                **{"native": near(0.1), "qemu": near(9.0)},
                **{"kvm": near(1.0), "kvm-2": near(1.3)},
            },
            "boot.steady": {"qemu": near(2.0), "kvm": near(1.0), "kvm-2": near(1.0)},
        },
    )
    assert "differs from itself in 1 figure. The host is too noisy" in section.text
    drifts, steady = figure_cells(section, "drifts"), figure_cells(section, "steady")
    verdicts = {head: verdict for head, verdict in drifts.items() if head.endswith(", verdict")}
    assert len(verdicts) == 6
    assert set(verdicts.values()) == {"inconclusive"}
    assert NOISY_HOST in drifts["Figure"]
    assert steady["kvm vs qemu, verdict"] == "better"
    assert steady["kvm-2 vs kvm, verdict"] == "no difference", "A/A pairs are always compared"
    assert NOISY_HOST not in steady["Figure"]


def test_aa_pairs_are_judged_separately(tmp_path: Path) -> None:
    """Among many true differences a p value of 0.03 would pass the bound."""
    lower, upper = [1.0, 1.02, 1.04, 1.06, 1.08, 1.17], [1.1, 1.12, 1.14, 1.16, 1.18, 1.2]
    twins = {"kvm": lower, "kvm-2": upper}
    sure = {f"boot.sure{n}": {"native": near(0.1), "kvm": near(1.0)} for n in range(40)}
    equal = {f"boot.equal{n}": {"kvm": near(1.0), "kvm-2": near(1.0)} for n in range(20)}
    section = side_by_side(tmp_path, {**sure, **equal, "boot.chance": twins})
    assert "Warning" not in section.text
    assert figure_cells(section, "sure0")["kvm vs native, verdict"] == "worse"


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


def test_interrupted_run_and_hypervisor_without_figures_are_reported(tmp_path: Path) -> None:
    stopped = {"exit_status": 2, "hypervisor": "kvm, qemu"}
    page = page_of(tmp_path, parts="boot", facts=stopped)
    assert "Interrupted run: its session was ended before its last test." in page.text
    assert "this run has no figures of qemu" in page.id("side-by-side").text


def test_flags_name_the_hypervisor_they_are_of(tmp_path: Path) -> None:
    section = side_by_side(
        tmp_path,
        {
            "boot.few": {"kvm": near(1.0)[:3], "qemu": near(1.0)},
            "boot.many": {"kvm": near(1.0), "qemu": near(1.0)},
        },
    )
    assert "kvm: few boots (3)" in figure_cells(section, "few")["Figure"]
    assert "qemu: few boots" not in section.text


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
