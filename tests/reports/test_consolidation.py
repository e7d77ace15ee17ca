"""The consolidation page: what it says about a search, and that it stays small and accessible."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.results import RunWriter
from harness.results.schema import Parameter, Sample
from reports import consolidation
from reports.page import Run
from reports.run import render
from tests.reports.checks import checked_page, rows
from tests.reports.page import parse
from tests.results.synthetic import Synthetic, facts

GUESTS = {"web": 95, "batch": 100}
LIMIT = 100.0  # ms


def samples(template: Sample, knee: float) -> list[Sample]:
    """A search over 1 to 4 tiles whose guests are within their limits up to `knee`."""
    made = []

    def add(metric: str, value: float, unit: str, batch: int = 0, **parameters: Parameter) -> None:
        about: dict[str, Parameter] = {"tile": "standard v1", "deploy": "clone", **parameters}
        made.append(
            replace(
                template,
                metric=f"consolidation.{metric}",
                value=value,
                unit=unit,
                better="none",
                parameters=about,
                batch=batch,
                test="test_knee.py::test_knee",
            )
        )

    for batch, tiles in enumerate((1.0, 2.0, 3.0, 4.0)):
        about = {"tiles": tiles}
        add("point", 1, "points", batch, outcome="pass" if tiles <= knee else "fail", **about)
        add("score", tiles * 0.99, "tiles", batch, **about)
        for guest, percentile in GUESTS.items():
            for p, factor in ((50, 0.2), (95, 0.8), (99, 1.0)):
                latency = 30 * tiles * factor
                add("latency", latency, "ms", batch, guest=guest, percentile=p, **about)
            own: dict[str, Parameter] = {"guest": guest, "percentile": percentile}
            add("latency.worst_guest", 31 * tiles, "ms", batch, **own, **about)
            add("latency.limit", LIMIT, "ms", batch, **own, **about)
            add("memory", 20.0, "MiB", batch, guest=guest, load="full", **about)
            add("cpu.guest", 5.0, "%", batch, guest=guest, load="full", **about)
        for name, value in (("busy", 30.0), ("guests", 25.0), ("demand", 10.0)):
            add(f"cpu.{name}", value * tiles, "%", batch, load="full", **about)
    for metric, value, unit in (
        ("knee", knee + 0.25, "tiles"),
        ("knee.lowest", knee, "tiles"),
        ("knee.highest", knee + 0.25, "tiles"),
        ("servers_per_host", 2 * (knee + 0.25), "servers"),
        ("servers_per_core", 2 * (knee + 0.25), "servers/core"),
        ("knee.utilization", 91.0, "%"),
        ("fit.base", 0.05, "CPUs"),
        ("fit.guest", 0.02, "CPUs/guest"),
        ("fit.demand", 1.7, "CPUs/CPU"),
    ):
        add(metric, value, unit)
    return made


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    writer = RunWriter(tmp_path / "store", facts(hypervisor="kvm, qemu"))
    for hypervisor, knee in (("kvm", 3.0), ("qemu", 2.0)):
        (template, *_) = Synthetic(writer.run, boots=1, hypervisor=hypervisor).exits()
        for sample in samples(template, knee):
            writer.add(sample)
    return writer.close()


def test_page_answers_in_its_title_and_compares_hypervisors(run_file: Path, tmp_path: Path) -> None:
    out = consolidation.render(run_file, tmp_path / "page.html")
    assert out is not None
    html = out.read_text(encoding="utf-8")
    page = parse(html)
    assert "6.5 servers fit on one host with kvm" in html
    table = rows(page.id("answer"))
    assert table["kvm (emulated)"][3:7] == ["6.50", "6.50", "3.25", "3.00 to 3.25"]
    assert table["qemu (emulated)"][3] == "4.50"
    assert out.stat().st_size < 1 << 20


def test_points_have_their_verdicts(run_file: Path, tmp_path: Path) -> None:
    out = consolidation.render(run_file, tmp_path / "page.html")
    assert out is not None
    section = parse(out.read_text(encoding="utf-8")).id("search-kvm")
    verdicts = {name: cells[1] for name, cells in rows(section).items() if name in "1234"}
    assert verdicts == {"1": "pass", "2": "pass", "3": "pass", "4": "fail"}


def test_page_is_valid_and_loads_nothing(run_file: Path, tmp_path: Path) -> None:
    out = consolidation.render(run_file, tmp_path / "page.html")
    assert out is not None
    checked_page(out.read_text(encoding="utf-8"))


def test_run_without_a_search_has_no_page(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "store", facts(hypervisor="kvm"))
    for sample in Synthetic(writer.run, boots=1).exits():
        writer.add(sample)
    path = writer.close()
    assert consolidation.render(path, tmp_path / "page.html") is None
    assert not (tmp_path / "page.html").exists()
    assert consolidation.summary(Run.read(path)) == []


def test_report_of_the_run_has_the_answer(run_file: Path, tmp_path: Path) -> None:
    html = render(run_file, tmp_path / "report.html").read_text(encoding="utf-8")
    section = parse(html).id("answer")
    assert rows(section)["kvm (emulated)"][3] == "6.50"
    assert "consolidation.html" in section.text
