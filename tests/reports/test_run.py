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
from tests.reports.checks import HOSTILE, rows, sound
from tests.reports.page import Element, parse
from tests.results.synthetic import Synthetic, facts, write_run

SECTIONS = (
    *("key", "beside", "environment", "boot", "exits", "io"),
    *("host", "outcomes", "stages", "method"),
)


def page_of(directory: Path, **more: Any) -> Element:
    run = write_run(directory / "store", **more)
    return parse(render(run, directory / "page.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Element:
    return page_of(tmp_path_factory.mktemp("report"))


def test_says_what_ran_where_and_that_it_is_emulated(page: Element) -> None:
    assert page.all("h1")[0].text == "kvm on an emulated host"
    assert EMULATED in page.all("header")[0].text
    told = rows(page.id("environment"))
    assert told["CPU"][1] == "QEMU TCG CPU (synthetic)"
    assert told["Backend"][1] == "emulated"
    assert told["Memory"][1] == "2.0 GiB"
    assert "spectre_v2: Mitigation: Retpolines" in told["Mitigations"][1]
    assert told["Microcode"][1] == "not known"


def test_hypervisors_stand_side_by_side(page: Element) -> None:
    section = page.id("beside")
    (table,) = section.all("table")  # of what natively has figures: the disk's
    assert "Disk: native, kvm" in table.text
    told = rows(section)["iops"]
    native, guest, worse = (float(cell.replace(",", "").rstrip(" %")) for cell in told[3:6])
    assert worse == pytest.approx(100 * (1 - guest / native), abs=1.0)
    low, high = told[6].removesuffix(" %").split(" to ")
    assert float(low) <= worse <= float(high)
    # five boots: said once below the table, not in each row
    assert "few boots" not in table.text
    assert "All of Disk: few boots (5)" in section.text


def test_one_hypervisor_alone_says_how_to_get_more(tmp_path: Path) -> None:
    assert "Give --hypervisor more than once" in page_of(tmp_path, parts="boot").id("beside").text


def test_without_a_native_side_the_first_is_the_baseline(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "store", facts(hypervisor="qemu, kvm"))
    for sample in Synthetic(writer.run, boots=6, hypervisor="qemu").boot():
        writer.add(sample)
        writer.add(dataclasses.replace(sample, hypervisor="kvm", value=sample.value / 2))
    out = render(writer.close(), tmp_path / "page.html")
    found = parse(out.read_text(encoding="utf-8"))
    told = rows(found.id("beside"))["ready"]
    assert found.id("beside").all("caption")[0].text == "Boot: qemu, kvm"
    assert told[5] == "−50 %"
    assert told[7] == "better"


def beside(directory: Path, figures: dict[str, dict[str, list[float]]]) -> Element:
    """The section of a run: metric -> hypervisor -> a value a boot."""
    names = dict.fromkeys(name for sides in figures.values() for name in sides)
    writer = RunWriter(directory / "store", facts(hypervisor=", ".join(names)))
    for metric, sides in figures.items():
        for name, values in sides.items():
            maker = Synthetic(writer.run, hypervisor=name)
            for boot, value in enumerate(values):
                writer.add(maker.sample(metric, value, "s", "lower", boot=boot))
    out = render(writer.close(), directory / "page.html")
    return parse(out.read_text(encoding="utf-8")).id("beside")


def told(section: Element, metric: str) -> dict[str, str]:
    """The head of each column -> what a figure's row has in it."""
    for table in section.all("table"):
        heads = [head.text for head in table.all("thead")[0].all("th")]
        if cells := rows(table).get(metric):
            return dict(zip(heads, cells, strict=True))
    raise AssertionError(f"no row of {metric}")


def near(value: float) -> list[float]:
    return [value * part for part in (0.99, 0.995, 1.0, 1.002, 1.005, 1.01)]


WILD = [0.85, 0.86, 0.95, 1.05, 1.14, 1.15]


def test_machines_are_compared_with_native_and_with_the_first_of_them(tmp_path: Path) -> None:
    section = beside(
        tmp_path,
        {
            "io.all": {"native": near(1.0), "kvm": near(2.0), "qemu": near(3.0)},
            "io.guests": {"kvm": near(2.0), "qemu": near(1.0)},
            "net.guests": {"kvm": near(2.0), "qemu": near(3.0)},
        },
    )
    everywhere = told(section, "all")
    assert everywhere["kvm worse than native by"] == "100 %"
    assert everywhere["qemu worse than native by"] == "200 %"
    assert everywhere["qemu worse than kvm by"] == "50 %"
    assert everywhere["qemu beside kvm is"] == "worse"
    guests = told(section, "guests")
    assert guests["qemu worse than kvm by"] == "−50 %"
    assert guests["qemu beside kvm is"] == "better"
    for head in ("kvm worse than native by", "kvm beside native, 95 %", "kvm beside native is"):
        assert guests[head] == "–"
    network = section.all("table")[1]
    assert "qemu beside kvm is" in network.text
    assert "native" not in network.text, "it has no figures there"


def test_no_difference_is_not_what_cannot_be_told(tmp_path: Path) -> None:
    section = beside(
        tmp_path,
        {
            "boot.same": {"kvm": near(1.0), "qemu": near(1.0)},
            "boot.wild": {"kvm": WILD, "qemu": WILD},
            "boot.few": {"kvm": near(1.0)[:3], "qemu": near(1.0)[:3]},
        },
    )
    assert told(section, "same")["qemu beside kvm is"] == "no difference"
    assert told(section, "wild")["qemu beside kvm is"] == "inconclusive"
    assert told(section, "few")["qemu beside kvm is"] == "inconclusive"
    assert "Inconclusive: too few boots, or too much noise, to tell." in section.text


def test_how_much_a_hypervisor_may_differ_from_itself_does_not_count(tmp_path: Path) -> None:
    """The medians of kvm and kvm-2 are equal by chance; they may as well be 27 % apart."""
    twins = {"kvm": WILD, "kvm-2": WILD}
    section = beside(
        tmp_path,
        {
            "boot.small": {**twins, "qemu": near(1.2)},
            "boot.great": {**twins, "qemu": near(2.0)},
            "boot.equal": {**twins, "qemu": near(1.0)},
            "boot.alone": {"kvm": WILD, "qemu": near(1.2)},
        },
    )
    assert told(section, "small")["qemu beside kvm is"] == "inconclusive"
    assert told(section, "great")["qemu beside kvm is"] == "worse"
    assert told(section, "equal")["qemu beside kvm is"] == "inconclusive", "noise proves nothing"
    assert told(section, "alone")["qemu beside kvm is"] == "worse", "nothing says how much it may"
    assert told(section, "equal")["kvm-2 beside kvm is"] == "inconclusive", "it has no such bound"
    assert "Warning" not in section.text


def test_a_hypervisor_that_differs_from_itself_is_warned_of(tmp_path: Path) -> None:
    section = beside(
        tmp_path,
        {
            "boot.drifts": {
                **{"native": near(0.1), "qemu": near(9.0)},
                **{"kvm": near(1.0), "kvm-2": near(1.3)},
            },
            "boot.steady": {"qemu": near(2.0), "kvm": near(1.0), "kvm-2": near(1.0)},
        },
    )
    assert "differed from itself in 1 figure: this host is not steady enough" in section.text
    drifts, steady = told(section, "drifts"), told(section, "steady")
    verdicts = {head: said for head, said in drifts.items() if head.endswith(" is")}
    assert len(verdicts) == 6
    assert set(verdicts.values()) == {"inconclusive"}
    assert "the same hypervisor differed from itself" in drifts["Figure"]
    assert steady["kvm beside qemu is"] == "better"
    assert steady["kvm-2 beside kvm is"] == "no difference", "compared also where neither is first"
    assert "differed" not in steady["Figure"]


def test_true_differences_do_not_make_twins_unsteady(tmp_path: Path) -> None:
    """What chance makes of equals is judged without those that differ for sure: among these a p of
    0.03 would do."""
    lower, upper = [1.0, 1.02, 1.04, 1.06, 1.08, 1.17], [1.1, 1.12, 1.14, 1.16, 1.18, 1.2]
    twins = {"kvm": lower, "kvm-2": upper}
    sure = {f"boot.sure{n}": {"native": near(0.1), "kvm": near(1.0)} for n in range(40)}
    equal = {f"boot.equal{n}": {"kvm": near(1.0), "kvm-2": near(1.0)} for n in range(20)}
    section = beside(tmp_path, {**sure, **equal, "boot.chance": twins})
    assert "Warning" not in section.text
    assert told(section, "sure0")["kvm beside native is"] == "worse"


def test_hardware_carries_no_banner_and_a_slow_control_does(tmp_path: Path) -> None:
    hardware = {"emulated": False, "backend": "vmx", "host": "local"}
    boot = page_of(tmp_path / "a", parts="boot", backend="vmx", facts=hardware)
    assert EMULATED not in boot.text
    assert boot.all("h1")[0].text == "kvm on synthetic"
    # the synthetic control loop takes 14 cycles an instruction: no CPU does that
    exits = page_of(tmp_path / "b", parts="exits", backend="vmx", facts=hardware)
    assert EMULATED in exits.text


def test_every_section_is_there_and_linked(page: Element) -> None:
    links = [link.attributes["href"] for link in page.all("nav")[0].all("a")]
    for name in SECTIONS:
        assert page.id(name).tag == "section"
        assert f"#{name}" in links
    assert not [e for e in page.everything() if "missing" in e.attributes.get("class", "")]


def test_key_figures_answer_in_words(page: Element) -> None:
    keys = {card.all("dt")[0].text: card.text for card in page.id("key").all("div")}
    assert {"Boot to ready", "Cheapest exit", "Dearest exit", "Host busy", "Tests"} <= set(keys)
    assert {"I/O throughput lost", "I/O latency added"} <= set(keys)
    assert "5 boots" in keys["Boot to ready"]
    assert "kvm (emulated)" in keys["Boot to ready"]
    assert "cpuid" in keys["Cheapest exit"]
    assert "pio_user" in keys["Dearest exit"]
    assert "of 2 CPUs" in keys["Host busy"]
    assert "1 skipped" in keys["Tests"]


def test_key_figures_of_several_hypervisors_say_whose_they_are(tmp_path: Path) -> None:
    page = page_of(tmp_path, parts="boot exits", facts={"hypervisor": "kvm, qemu"})
    labels = [card.all("dt")[0].text for card in page.id("key").all("div")]
    assert labels[:3] == ["Boot to ready, kvm", "Cheapest exit, kvm", "Dearest exit, kvm"]


def test_figures_are_those_of_the_samples(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    _, frame = load(run)
    page = parse(render(run, tmp_path / "page.html").read_text(encoding="utf-8"))
    ready = frame[frame["metric"] == "boot.ready"]["value"]
    told = rows(page.id("boot"))["ready"]
    assert told[1] == f"{ready.median():.2f}"
    assert told[3] == f"{ready.min():.2f}"
    assert told[-2:] == ["5", "5"]
    costs = rows(page.id("exits"))
    assert list(costs) == ["control", "cpuid", "hypercall_null", "pio_kernel", "pio_user"]
    raw = frame[frame["metric"] == "exit.pio_user"].groupby("boot")["value"].median()
    control = frame[frame["metric"] == "exit.control"].groupby("boot")["value"].median()
    assert costs["pio_user"][1] == f"{(raw - control).median():,.0f}"
    assert "1.31 exits an operation, expected 1" in costs["pio_kernel"][0]
    assert "expected" not in costs["cpuid"][0]


def test_every_figure_says_boots_and_backend_and_is_described(page: Element) -> None:
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


def test_page_is_sound(page: Element, tmp_path: Path) -> None:
    assert len(page.all("table")) == 8
    sound(render(write_run(tmp_path), tmp_path / "page.html").read_text(encoding="utf-8"))


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
    page = sound(html)
    assert HOSTILE in page.id("environment").text
    assert "49" not in rows(page.id("environment"))["CPU"][1]
    assert HOSTILE in page.id("exits").text


@pytest.mark.parametrize(
    ("parts", "section", "said"),
    [
        ("exits io utilization", "boot", "No boot samples in this run."),
        ("boot io utilization", "exits", "No exit costs in this run"),
        ("boot exits utilization", "io", "No I/O samples in this run."),
        ("boot exits io", "host", "No utilization samples of the host in this run."),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, parts: str, section: str, said: str) -> None:
    assert said in page_of(tmp_path, parts=parts).id(section).text


def test_run_with_nothing_at_all(tmp_path: Path) -> None:
    run = RunWriter(tmp_path, {}).close()
    page = parse(render(run, tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "This run holds no samples." in page.text
    assert "does not say how its tests ended" in page.id("outcomes").text
    assert "does not say how long its stages took" in page.id("stages").text
    assert lines(run) == ["This run holds no samples."]


def test_one_boot_and_failures_and_a_dead_session_are_said(tmp_path: Path) -> None:
    told = {"outcomes": {"failed": 2, "passed": 1}, "complete": False, "lost_lines": 1}
    page = page_of(tmp_path, boots=1, facts=told)
    banner = page.all("header")[0].text
    assert "Incomplete run" in banner
    assert "2 of 3 tests failed" in banner
    assert "one boot: no interval" in page.id("boot").text
    assert "one boot: no interval" in page.id("io").text
    assert list(rows(page.id("outcomes"))) == ["passed", "failed"]


def test_raw_data_is_all_there(tmp_path: Path) -> None:
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


def test_page_stays_small_however_many_samples(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path, facts())
    maker = Synthetic(writer.run, boots=20)
    for sample in [*maker.boot(), *maker.exits(), *maker.utilization(ticks=4000)]:
        writer.add(sample)
    out = render(writer.close(), tmp_path / "page.html")
    assert out.stat().st_size < 1 << 20
    page = parse(out.read_text(encoding="utf-8"))
    assert "the first 12 are drawn" in page.id("boot").text
    assert "too many to lie in a page" in page.id("raw").text


def test_page_that_cannot_be_written_keeps_the_old_one(tmp_path: Path) -> None:
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
    told = lines(write_run(tmp_path))
    assert told[0] == EMULATED
    assert len(told) == 8
    assert any(line.startswith("Boot to ready") and "5 boots" in line for line in told)
