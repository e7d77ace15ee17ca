"""The logs of hv-load and pgbench become one table."""

from __future__ import annotations

import math
import struct

import numpy as np
import pandas as pd
import pytest

from harness.errors import WorkloadError
from suites.consolidation.requests import in_window, latency_at, read_hv_load, read_pgbench

MONOTONIC, REALTIME = 5_000_000_000, 1_700_000_000_000_000_000
MESSAGES = f"started {MONOTONIC} {REALTIME}\ncpu 250000 of 1000000\nrecords %d\n"


def record(target: int, status: int, *times: float) -> bytes:
    """times: scheduled, taken, sent, done in seconds since the start; 0 for never."""
    return struct.pack(
        "=IIqqqq", target, status, *(int(t * 1e9) + MONOTONIC if t else 0 for t in times)
    )


def test_latency_starts_at_the_schedule() -> None:
    records = record(2, 0, 1.0, 1.001, 1.5, 1.75) + record(0, 3, 2.0, 2.0, 0, 0)
    log = read_hv_load(records, (MESSAGES % 2).encode())
    first, second = log.requests.to_dict("records")
    assert first["target"] == 2
    assert first["scheduled"] == pytest.approx(1_700_000_001.0)
    assert first["latency"] == pytest.approx(0.75)
    assert first["delay"] == pytest.approx(0.001, abs=1e-8)
    assert (first["good"], second["good"]) == (True, False)
    assert second["latency"] == math.inf
    assert log.cpu_share == 0.25


@pytest.mark.parametrize("status", [1, 2, 3])
def test_bad_answer_is_infinitely_late(status: int) -> None:
    log = read_hv_load(record(0, status, 1.0, 1.0, 1.0, 1.1), (MESSAGES % 1).encode())
    assert log.requests["latency"].tolist() == [math.inf]


@pytest.mark.parametrize(
    ("size", "messages"),
    [
        (40, b""),
        (39, (MESSAGES % 1).encode()),
        (40, (MESSAGES % 2).encode()),
        (40, b"started x y\n"),
        (40, (MESSAGES % 1).replace("started", "hv-load: timer: error\nbegan").encode()),
    ],
)
def test_output_that_is_not_complete_is_an_error(size: int, messages: bytes) -> None:
    with pytest.raises(WorkloadError, match="hv-load did not finish"):
        read_hv_load(record(0, 0, 1, 1, 1, 1)[:size], messages)


def lines(*transactions: tuple[float, float]) -> bytes:
    """(scheduled, latency) in seconds."""
    texts = []
    for number, (scheduled, latency) in enumerate(transactions):
        end = scheduled + latency
        micro = round(end % 1 * 1e6)
        texts.append(f"0 {number} {round(latency * 1e6)} 0 {int(end)} {micro} 120\n")
    return "".join(texts).encode()


def test_pgbench_log_is_scheduled_back_from_its_end() -> None:
    log = read_pgbench(lines((100.0, 0.5), (101.0, 0.25)), 3, 1.0, 99.0, 102.0)
    assert log["scheduled"].tolist() == pytest.approx([100.0, 101.0])
    assert log["latency"].tolist() == pytest.approx([0.5, 0.25])
    assert log["good"].all()
    assert log["target"].tolist() == [3, 3]
    assert log["delay"].isna().all()


def test_arrivals_after_the_end_of_pgbench_are_unanswered() -> None:
    log = read_pgbench(lines((100.0, 0.1), (101.0, 0.1)), 0, 2.0, 99.0, 111.0)
    missing = log[~log["good"]]
    assert len(missing) == 19  # two a second from 101.5 on
    assert np.isinf(missing["latency"]).all()
    assert missing["scheduled"].max() < 111.0


def test_pgbench_without_any_transaction_left_all_arrivals_unanswered() -> None:
    log = read_pgbench(b"", 0, 2.0, 100.0, 110.0)
    assert len(log) == 19
    assert not log["good"].any()


def test_last_line_of_a_killed_pgbench_may_be_cut() -> None:
    whole = lines((100.0, 0.1), (101.0, 0.1))
    assert len(read_pgbench(whole[:-9], 0, 1.0, 99.0, 101.0)) == 1
    with pytest.raises(WorkloadError, match="pgbench logged b'nonsense'"):
        read_pgbench(b"nonsense\n" + whole, 0, 1.0, 99.0, 101.0)


def test_window_is_half_open_and_of_schedules() -> None:
    log = pd.DataFrame({"scheduled": [0.9, 1.0, 1.5, 2.0], "latency": [9.0, 9.0, 9.0, 9.0]})
    assert in_window(log, 1.0, 2.0)["scheduled"].tolist() == [1.0, 1.5]


def test_latency_of_no_request_is_not_a_number() -> None:
    assert math.isnan(latency_at(pd.Series([0.1])[:0], 99))


def test_one_unanswered_request_shows_only_beyond_its_rank() -> None:
    latencies = pd.Series([0.1] * 99 + [math.inf])
    assert latency_at(latencies, 99) == 0.1
    assert latency_at(latencies, 100) == math.inf
