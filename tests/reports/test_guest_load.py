"""The utilization of guests appears in the section Utilization only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.results import RunWriter, Sample, load
from harness.results.compare import compare
from harness.results.differences import comparable_samples, overheads
from harness.results.exchange import benchmark_json
from harness.results.selection import select_runs
from harness.results.store import boot_medians
from reports.run import render
from tests.reports.checks import checked_page, rows
from tests.results.synthetic import Synthetic, facts

PARTS = {"cpu.user": "%", "cpu.system": "%", "memory.used": "MiB", "pressure.cpu": "%"}


def load_of(maker: Synthetic, label: str, busy: list[float], boot: int = 0) -> Iterator[Sample]:
    """The samples of a guest. busy: user time of each tick; the system time is a tenth of it."""
    for tick, user in enumerate(busy):
        values = {"cpu.user": user, "cpu.system": user / 10, "memory.used": 90 + tick}
        for name, value in {**values, "pressure.cpu": 2.0 * tick}.items():
            more = {"boot": boot, "batch": tick, "parameters": {"guest": label}}
            where = {"suite": "", "test": "", "item": "", **more}
            yield maker.sample(f"guest.{name}", value, PARTS[name], "none", **where)


def write_load(folder: Path, guests: dict[str, list[float]]) -> Path:
    """A run of two hypervisors with these guests."""
    writer = RunWriter(folder / "store", facts(hypervisor="kvm, native"))
    for name in ("kvm", "native"):
        maker = Synthetic(writer.run, boots=6, hypervisor=name)
        samples = [*maker.boot(), *maker.utilization(20)]
        for label, busy in guests.items():
            samples += load_of(maker, label, busy)
        for sample in samples:
            writer.add(sample)
        for sample in load_of(maker, "web", [50.0], boot=1):
            writer.add(sample)
    return writer.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    guests = {"idle": [1.0, 2.0, 3.0], "web": [10.0, 200.0, 30.0]}
    return write_load(tmp_path_factory.mktemp("load"), guests)


def test_guests_of_each_hypervisor_are_listed(run: Path, tmp_path: Path) -> None:
    page = checked_page(render(run, tmp_path / "page.html").read_text(encoding="utf-8"))
    captions = [caption.text for caption in page.id("host").all("caption")]
    for name in ("kvm", "native"):
        assert sum(f"Host resources used by guests: {name} (emulated)" in c for c in captions) == 1
    table = rows(page.id("host").all("table")[-1])
    assert list(table) == ["web", "idle"], "the busiest first"
    assert table["idle"] == ["idle", "2.2", "3.3", "92.0", "2.0", "–", "–", "1", "3"]
    # Two guests have this label, so their first ticks are separate.
    assert table["web"] == ["web", "44.0", "220.0", "92.0", "1.5", "–", "–", "2", "4"]


def test_number_of_shown_guests_is_limited(tmp_path: Path) -> None:
    path = write_load(tmp_path, {f"guest-{n}": [float(n)] * 3 for n in range(400)})
    page = checked_page(render(path, tmp_path / "page.html").read_text(encoding="utf-8"))
    table = rows(page.id("host").all("table")[-1])
    assert list(table) == [f"guest-{n}" for n in range(399, 369, -1)]
    assert "30 of 401 guests, by CPU time" in page.id("host").text


def test_guest_utilization_is_never_compared(run: Path, tmp_path: Path) -> None:
    facts_, frame = load(run)
    assert frame["metric"].str.startswith("guest.").any()
    medians = boot_medians([run])
    store = tmp_path / "store"
    base, new = (select_runs(store, write_load(tmp_path, {"web": [n]}).stem) for n in (10.0, 90.0))
    tables = (medians, comparable_samples(frame), overheads(frame), compare(base, new).table)
    for table in tables:
        assert len(table)
        assert not table["metric"].str.startswith(("guest.", "host.")).any()
    # A better direction makes no difference.
    assert (
        not comparable_samples(frame.assign(better="lower"))["metric"]
        .str.startswith("guest.")
        .any()
    )
    document = benchmark_json.convert(facts_, frame.assign(unit="s"))["benchmarks"]
    known = {one["extra_info"]["metric"] for one in document}
    assert known == {f"boot.{stage}" for stage in ("kernel", "init", "sshd", "ready")}
    page = checked_page(render(run, tmp_path / "page.html").read_text(encoding="utf-8"))
    assert [caption.text for caption in page.id("side-by-side").all("caption")] == [
        "Boot: native, kvm"
    ]
