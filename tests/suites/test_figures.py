"""What the suites make of the tools' words: figures, or an error that names the tool."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import WorkloadError
from suites import tool
from suites.cost import Background, Cost
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
