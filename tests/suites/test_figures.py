"""What the suites make of the tools' words: figures, or an error that names the tool."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import WorkloadError
from suites import bare, tool
from suites.cost import Background, Cost, Spent
from suites.io import fio, network

GUEST: Any = SimpleNamespace(name="g", address="10.1.0.2")


def said(text: str) -> Any:
    """A guest in which every command prints that."""
    done = SimpleNamespace(stdout=text)
    ssh = SimpleNamespace(run=lambda argv, timeout: done)
    return SimpleNamespace(name="g", ssh=ssh, statistics=dict)


def side(total: int, iops: float) -> dict[str, Any]:
    percentile = dict.fromkeys(fio.PERCENTILES.values(), 2000 * iops)
    return {"total_ios": total, "iops": iops, "clat_ns": {"percentile": percentile}}


def test_fio_is_read_on_the_side_that_worked() -> None:
    jobs = {"jobs": [{"read": side(0, 0.0), "write": side(40, 10.0)}]}
    found = fio.figures("fio: a warning\n" + json.dumps(jobs), "guest g")
    assert (found["iops"], found["requests"], found["clat.p99"]) == (10.0, 40.0, 20.0)


@pytest.mark.parametrize("text", ["", "fio: broken", '{"jobs": []}', '{"jobs": [{"read": {}}]}'])
def test_fio_without_figures(text: str) -> None:
    with pytest.raises(WorkloadError, match="fio on the guest g printed no usable JSON"):
        fio.figures(text, "guest g")


def test_fio_that_did_nothing() -> None:
    nothing = json.dumps({"jobs": [{"read": side(0, 0.0), "write": side(0, 0.0)}]})
    with pytest.raises(WorkloadError, match="made no request"):
        fio.figures(nothing, "guest g")


def test_every_profile_of_fio_differs_in_its_jobs() -> None:
    for jobs in (fio.SHORT, fio.FULL):
        assert len({(job.rw, job.depth) for job in jobs}) == len(jobs)
    assert {job.depth for job in fio.FULL} == {1, 4, 32}


@pytest.mark.parametrize(
    "text",
    ["", "hv-ops: killed", "[]", '{"batches": 3}', '{"batches": [{"ns": 1}]}',
     '{"batches": [{"ns": 0}, {"ns": 1}]}', '{"batches": [{"ns": "x"}, {"ns": 1}]}'],
)  # fmt: skip
def test_a_tool_without_its_batches(text: str) -> None:
    with pytest.raises(WorkloadError, match="hv-ops fault printed no result"):
        tool.time(said(text), "hv-ops", "fault", 10, 2)


def test_batches_of_a_tool() -> None:
    guest = said('{"batches": [{"ns": 3e9}, {"ns": 1e9}]}')
    timed = tool.time(guest, "hv-ops", "fault", 10, 2)
    assert (timed.ops, timed.seconds, timed.operations) == (10, 4.0, 20)
    # a tenth of a batch and one come first, but for what would no longer be cold
    assert tool.time(guest, "hv-ops", "switch", 10, 2).operations == 22


class Kept:
    """What was recorded: (metric, unit, boot, batch) to its value."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str, int, int], float] = {}

    def __call__(
        self,
        metric: str,
        value: float,
        unit: str,
        *about: Any,
        boot: int = 0,
        batch: int = 0,
        **more: Any,
    ) -> None:
        self.found[metric, unit, boot, batch] = value


def test_batches_are_kept_by_their_operation() -> None:
    guest, kept = said('{"batches": [{"ns": 3e9}, {"ns": 1e9}]}'), Kept()
    timed = tool.time(guest, "hv-ops", "wake", 1000, 2)
    tool.record(kept, "a", timed, "us", 3)
    tool.record(kept, "b", timed, "ns", 3)
    assert kept.found == {
        ("a", "us", 3, 0): 3000.0,
        ("a", "us", 3, 1): 1000.0,
        ("b", "ns", 3, 0): 3e6,
        ("b", "ns", 3, 1): 1e6,
    }


def test_costs_are_kept_without_what_comes_with_any_run() -> None:
    kept, its_own = Kept(), Spent({"cgroup_cpu_usec": 100, "exits": 10, "other": 1})
    Spent({"cgroup_cpu_usec": 500, "exits": 30}).beyond(its_own).record(kept, "m", 10, boot=1)
    assert kept.found == {("m.cpu", "us/op", 1, 0): 40.0, ("m.exits", "exits/op", 1, 0): 2.0}


@pytest.mark.parametrize(("ways", "per_operation"), [(1, 3.0), (2, 1.5)])
def test_exits_of_interrupts_are_without_those_of_the_start(
    monkeypatch: pytest.MonkeyPatch, ways: int, per_operation: float
) -> None:
    def run(payload: Any, program: Path, case: str, ops: int, batches: int, **how: Any) -> bare.Ran:
        # a whole batch comes before the first
        exits = 100 if case == "control" else 100 + 3 * ops * (batches + 1)
        return bare.Ran(case, [5000] * batches, 2.0, ops, exits)

    monkeypatch.setattr(bare, "run", run)
    kept = Kept()
    payload: Any = SimpleNamespace(label="")
    program = Path(str(ways))
    bare.record_interrupts(kept, "m", payload, program, "ipi", 10, boot=2, vcpus=2, ways=ways)
    assert kept.found["m.exits", "exits/op", 2, 0] == per_operation
    assert kept.found["m", "us", 2, bare.INTERRUPT_BATCHES - 1] == 1.0


def test_a_stream_and_small_packets() -> None:
    end = {
        "sum_received": {"bits_per_second": 8e6, "bytes": 3 << 20},
        "sum": {"packets": 100, "lost_packets": 25, "seconds": 5.0},
    }

    def client(argv: list[str]) -> str:
        assert argv[:3] == ["iperf3", "--client", "10.1.0.2"]
        return json.dumps({"end": end})

    assert network.stream(client, GUEST, 1) == (8.0, 3.0)
    assert network.small_packets(client, GUEST, 1) == (15.0, 25.0, 75)


@pytest.mark.parametrize(
    "text", ["", '{"error": "no route"}', '{"end": {}}', '{"end": {"sum": 1}}']
)
def test_a_stream_of_nothing(text: str) -> None:
    with pytest.raises(WorkloadError, match="iperf3"):
        network.stream(lambda argv: text, GUEST, 1)


def test_round_trips() -> None:
    found = network.trips(lambda argv: "trips 10 seconds 2.0 p50 3.5 p99 7", "hv-rr", GUEST, 2)
    assert found == {"count": 10.0, "rate": 5.0, "p50": 3.5, "p99": 7.0}
    with pytest.raises(WorkloadError, match="hv-rr measured nothing"):
        network.trips(lambda argv: "trips 10 seconds 0 p50 1 p99 1", "hv-rr", GUEST, 2)


def test_what_an_operation_cost() -> None:
    counters = [{"exits": 5, "cgroup_cpu_usec": 100}, {"exits": 25, "cgroup_cpu_usec": 400}]
    guest: Any = SimpleNamespace(statistics=lambda: counters.pop(0))
    spent = Cost(guest).spent()
    assert list(spent.per(10, "MiB")) == [("cpu", 30.0, "us/MiB"), ("exits", 2.0, "exits/MiB")]
    assert list(spent.per(0)) == []


def test_exits_that_are_no_operations() -> None:
    """10 a second, and 50 of its own: 100 operations in 2 seconds caused 110 of 180."""
    background = Background.between((60, 1.0), (90, 4.0))
    assert (background.fixed, background.a_second) == (50.0, 10.0)
    assert background.per_operation(180, 2.0, 100) == pytest.approx(1.1)


def test_a_background_is_never_below_nothing() -> None:
    assert Background.between((60, 1.0), (40, 4.0)) == Background(60.0, 0.0)
