"""The suites read figures from the tools' output, or raise an error that names the tool."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import WorkloadError
from suites import bare, timing_tools
from suites.cost import BackgroundExits, ResourceUsage, UsageMeter
from suites.io import fio, network

GUEST: Any = SimpleNamespace(name="g", address="10.1.0.2")


def guest_printing(text: str) -> Any:
    """A guest in which every command prints this text."""
    result = SimpleNamespace(stdout=text)
    ssh = SimpleNamespace(run=lambda argv, timeout: result)
    return SimpleNamespace(name="g", ssh=ssh, statistics=dict)


def direction(total: int, iops: float) -> dict[str, Any]:
    percentile = dict.fromkeys(fio.PERCENTILES.values(), 2000 * iops)
    return {"total_ios": total, "iops": iops, "clat_ns": {"percentile": percentile}}


def test_fio_figures_are_of_the_direction_with_requests() -> None:
    jobs = {"jobs": [{"read": direction(0, 0.0), "write": direction(40, 10.0)}]}
    figures = fio.parse_figures("fio: a warning\n" + json.dumps(jobs), "guest g")
    assert (figures["iops"], figures["requests"], figures["clat.p99"]) == (10.0, 40.0, 20.0)


@pytest.mark.parametrize("text", ["", "fio: broken", '{"jobs": []}', '{"jobs": [{"read": {}}]}'])
def test_fio_without_figures_is_an_error(text: str) -> None:
    with pytest.raises(WorkloadError, match="fio on the guest g printed no valid JSON"):
        fio.parse_figures(text, "guest g")


def test_fio_without_requests_is_an_error() -> None:
    idle = json.dumps({"jobs": [{"read": direction(0, 0.0), "write": direction(0, 0.0)}]})
    with pytest.raises(WorkloadError, match="completed no request"):
        fio.parse_figures(idle, "guest g")


def test_jobs_of_a_fio_profile_differ() -> None:
    for jobs in (fio.SHORT, fio.FULL):
        assert len({(job.rw, job.depth) for job in jobs}) == len(jobs)
    assert {job.depth for job in fio.FULL} == {1, 4, 32}


@pytest.mark.parametrize(
    "text",
    ["", "hv-ops: killed", "[]", '{"batches": 3}', '{"batches": [{"ns": 1}]}',
     '{"batches": [{"ns": 0}, {"ns": 1}]}', '{"batches": [{"ns": "x"}, {"ns": 1}]}'],
)  # fmt: skip
def test_tool_output_without_batches_is_an_error(text: str) -> None:
    with pytest.raises(WorkloadError, match="hv-ops page_fault printed no valid result"):
        timing_tools.run_tool(guest_printing(text), "hv-ops", "page_fault", 10, 2)


def test_tool_run_counts_operations_and_seconds() -> None:
    guest = guest_printing('{"batches": [{"ns": 3e9}, {"ns": 1e9}]}')
    run = timing_tools.run_tool(guest, "hv-ops", "page_fault", 10, 2)
    assert (run.ops, run.seconds, run.operations) == (10, 4.0, 20)
    # The warm-up is a tenth of a batch and one more. page_fault has none: pages must be cold.
    assert timing_tools.run_tool(guest, "hv-ops", "context_switch", 10, 2).operations == 22


class SampleRecorder:
    """Stands for record_sample: values by (metric, unit, boot, batch)."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str, int, int], float] = {}

    def __call__(
        self,
        metric: str,
        value: float,
        unit: str,
        *args: Any,
        boot: int | None = None,
        batch: int = 0,
        **kwargs: Any,
    ) -> None:
        self.values[metric, unit, boot or 0, batch] = value


def test_batches_are_recorded_per_operation() -> None:
    guest, recorder = guest_printing('{"batches": [{"ns": 3e9}, {"ns": 1e9}]}'), SampleRecorder()
    run = timing_tools.run_tool(guest, "hv-ops", "wakeup", 1000, 2)
    timing_tools.record_batches(recorder, "a", run, "us", 3)
    timing_tools.record_batches(recorder, "b", run, "ns", 3)
    assert recorder.values == {
        ("a", "us", 3, 0): 3000.0,
        ("a", "us", 3, 1): 1000.0,
        ("b", "ns", 3, 0): 3e6,
        ("b", "ns", 3, 1): 1e6,
    }


def test_usage_is_recorded_without_the_startup() -> None:
    recorder, startup = (
        SampleRecorder(),
        ResourceUsage({"cgroup_cpu_usec": 100, "exits": 10, "other": 1}),
    )
    usage = ResourceUsage({"cgroup_cpu_usec": 500, "exits": 30}).minus(startup)
    usage.record(recorder, "m", 10, boot=1)
    assert recorder.values == {("m.cpu", "us/op", 1, 0): 40.0, ("m.exits", "exits/op", 1, 0): 2.0}


@pytest.mark.parametrize(("interrupts_per_op", "expected"), [(1, 3.0), (2, 1.5)])
def test_interrupt_exits_exclude_the_startup(
    monkeypatch: pytest.MonkeyPatch, interrupts_per_op: int, expected: float
) -> None:
    def run(
        payload: Any, program: Path, case: str, ops: int, batches: int, **options: Any
    ) -> bare.BareRun:
        # The warm-up is a whole batch.
        exits = 100 if case == "control" else 100 + 3 * ops * (batches + 1)
        return bare.BareRun(case, [5000] * batches, 2.0, ops, exits)

    monkeypatch.setattr(bare, "run", run)
    recorder = SampleRecorder()
    payload: Any = SimpleNamespace(label="")
    program = Path(str(interrupts_per_op))  # a key of its own in the cache of startup exits
    bare.record_interrupts(
        recorder,
        "m",
        payload,
        program,
        "ipi",
        10,
        boot=2,
        vcpus=2,
        interrupts_per_op=interrupts_per_op,
    )
    assert recorder.values["m.exits", "exits/op", 2, 0] == expected
    assert recorder.values["m", "us", 2, bare.INTERRUPT_BATCHES - 1] == 1.0


def test_iperf3_figures() -> None:
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
def test_iperf3_without_a_result_is_an_error(text: str) -> None:
    with pytest.raises(WorkloadError, match="iperf3"):
        network.stream(lambda argv: text, GUEST, 1)


def test_hv_rr_figures() -> None:
    figures = network.round_trips(
        lambda argv: "round_trips 10 seconds 2.0 p50 3.5 p99 7", "hv-rr", GUEST, 2
    )
    assert figures == {"count": 10.0, "rate": 5.0, "p50": 3.5, "p99": 7.0}
    with pytest.raises(WorkloadError, match="hv-rr printed no valid result"):
        network.round_trips(lambda argv: "round_trips 10 seconds 0 p50 1 p99 1", "hv-rr", GUEST, 2)


def test_usage_per_operation() -> None:
    counters = [{"exits": 5, "cgroup_cpu_usec": 100}, {"exits": 25, "cgroup_cpu_usec": 400}]
    guest: Any = SimpleNamespace(statistics=lambda: counters.pop(0))
    usage = UsageMeter(guest).read()
    assert list(usage.per_operation(10, "MiB")) == [
        ("cpu", 30.0, "us/MiB"),
        ("exits", 2.0, "exits/MiB"),
    ]
    assert list(usage.per_operation(0)) == []


def test_background_exits_are_subtracted() -> None:
    """10 exits a second and 50 fixed: of 180 exits in 2 seconds, 110 are of the 100 operations."""
    background = BackgroundExits.from_controls((60, 1.0), (90, 4.0))
    assert (background.fixed, background.per_second) == (50.0, 10.0)
    assert background.exits_per_operation(180, 2.0, 100) == pytest.approx(1.1)


def test_background_exits_are_never_negative() -> None:
    assert BackgroundExits.from_controls((60, 1.0), (40, 4.0)) == BackgroundExits(60.0, 0.0)
