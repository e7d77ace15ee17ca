from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from harness.results import RunWriter
from reports.run import render
from reports.side_by_side import GROUPS
from reports.terminal import lines
from tests.reports.checks import checked_page, rows
from tests.reports.page import Element, parse
from tests.results.synthetic import Synthetic, facts, write_run

Figure = tuple[str, str, dict[str, str | int]]  # metric, unit, parameters


def html_of(directory: Path, sides: dict[str, Iterable[Figure]], boots: int = 6) -> str:
    writer = RunWriter(directory / "store", facts(hypervisor=", ".join(sides)))
    for name, figures in sides.items():
        maker = Synthetic(writer.run, hypervisor=name)
        for metric, unit, parameters in figures:
            for boot in range(boots):
                more: dict[str, Any] = {"boot": boot, "parameters": parameters}
                writer.add(maker.sample(metric, 40 + boot, unit, "lower", **more))
    return render(writer.close(), directory / "page.html").read_text(encoding="utf-8")


def captions(section: Element) -> list[str]:
    return [caption.text for caption in section.all("caption")]


def test_metrics_without_section_are_shown(tmp_path: Path) -> None:
    shared: list[Figure] = [("memory.pointer_chase", "ns", {"MiB": 1})]
    alone: list[Figure] = [
        ("isolation.end_latency", "s", {"case": "hog"}),
        ("isolation.end_latency", "s", {"case": "storm"}),
        ("memory.pointer_chase", "ns", {"MiB": 64}),
        ("memory.ksm.reclaimed", "us", {}),
        ("odd", "", {}),
    ]
    page = parse(html_of(tmp_path, {"kvm": [*shared, *alone], "qemu": shared}))
    section = page.id("other-metrics")
    groups = ("Memory", "Isolation", "odd")
    assert captions(section) == [f"{name}: kvm (emulated)" for name in groups]
    cells = [[cell.text for cell in line.all("td")] for line in section.all("tr")]
    text = section.text
    assert "case hog" in text
    assert "case storm" in text
    assert "MiB 64" in text
    assert "MiB 1 " not in text, "side by side already"
    assert sum(map(bool, cells)) == len(alone)
    assert rows(section)["ksm.reclaimed"][1:] == ["–", "µs", "42.5", "40.5 to 44.5", "6", "6"]


def test_single_hypervisor_shows_all_groups(tmp_path: Path) -> None:
    metrics = ("boot.ready", "host.cpu.idle", "io.iops", "net.x", "scheduler.syscall", "exit.cpuid")
    section = parse(html_of(tmp_path, {"kvm": [(m, "s", {}) for m in metrics]})).id("other-metrics")
    assert captions(section) == ["Network: kvm (emulated)", "Scheduler: kvm (emulated)"]


def test_no_section_without_other_metrics(tmp_path: Path) -> None:
    page = parse(html_of(tmp_path, {name: [("net.x", "s", {})] for name in ("kvm", "qemu")}))
    assert "Other metrics" not in page.text


def test_common_flag_is_shown_once(tmp_path: Path) -> None:
    figures: list[Figure] = [(f"net.{n}", "s", {}) for n in range(3)]
    section = parse(html_of(tmp_path, {"kvm": figures}, boots=1)).id("other-metrics")
    assert section.text.count("one boot: no interval") == 1


def test_page_with_many_figures_stays_small(tmp_path: Path) -> None:
    many: list[Figure] = [
        (f"{group}.figure", "ns", {"number": n})
        for group in ("memory", "made_up")
        for n in range(600)
    ]
    html = html_of(tmp_path, {"kvm": many}, boots=2)
    assert len(html.encode()) < 1 << 20
    checked_page(html)


@pytest.fixture(scope="module")
def exits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("exits"), parts="exits", boots=6)


def test_exits_show_batches_and_counts(exits: Path, tmp_path: Path) -> None:
    page = parse(render(exits, tmp_path / "page.html").read_text(encoding="utf-8"))
    table = rows(page.id("exits"))
    assert "batches of 1,000 operations, 30 per boot" in table["cpuid"][0]
    assert "required" not in table["control"][0]
    assert "1.31 exits per operation, expected 1" in table["pio_kernel"][0]
    assert (table["control"][7], table["cpuid"][7]) == ("0.001", "1.001")


def test_side_by_side_exits_show_batches_and_counts(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "store", facts(hypervisor="kvm, qemu"))
    for name in ("kvm", "qemu"):
        for sample in Synthetic(writer.run, boots=6, hypervisor=name).exits():
            writer.add(sample)
    html = render(writer.close(), tmp_path / "page.html").read_text(encoding="utf-8")
    section = parse(html).id("side-by-side")
    assert section.text.count("batches of 1,000 operations, 30 per boot") == 1, "of all, once"
    assert "1.31 exits per operation, expected 1" in rows(section)["pio_kernel"][0]


def test_key_figures_include_flags_of_the_cost(exits: Path) -> None:
    (line,) = [line for line in lines(exits) if line.startswith("Cheapest exit")]
    assert line.endswith("1,000 operations, 30 per boot (required: 100,000 and 30)")


def test_metrics_of_each_suite_of_this_project_have_a_group() -> None:
    """Others count as a user's own: they are among the key figures."""
    suites = Path(__file__).resolve().parents[2] / "suites"
    sources = "".join(path.read_text() for path in suites.rglob("*.py"))
    recorded = set(re.findall(r'(?:record_sample\(\s*|metric = )f?"([a-z]+)\.', sources))
    assert len(recorded) > 5
    assert recorded <= GROUPS.keys()
