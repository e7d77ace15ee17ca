"""The section that shows a run's hypervisors side by side."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from harness.results import RunWriter
from reports.run import render
from reports.side_by_side import NOISY_HOST
from tests.reports.checks import page_of, rows
from tests.reports.page import Element, parse
from tests.results.synthetic import Synthetic, facts


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Element:
    return page_of(tmp_path_factory.mktemp("report"))


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
    assert "95 %" not in table.text, "five boots cannot support it"
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
