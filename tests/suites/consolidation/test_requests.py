"""The logs of hv-load and pgbench become one table."""

from __future__ import annotations

import math
import struct

import numpy as np
import pandas as pd
import pytest

from harness.errors import WorkloadError
from suites.consolidation.requests import (
    CURVE,
    by_target,
    in_window,
    latencies_at,
    latency_at,
    latency_curves,
    read_hv_load,
    read_pgbench,
)

MONOTONIC, REALTIME = 5_000_000_000, 1_700_000_000_000_000_000
MESSAGES = f"started {MONOTONIC} {REALTIME}\ncpu 250000 of 1000000\nrecords %d\n"


NEVER = 4294.967295


def record(target: int, status: int, scheduled: float, *since: float) -> bytes:
    """scheduled: in seconds since the start. since: delay, sent and done, seconds from there."""
    times = [round(t * 1e6) for t in since]
    packed = target | status << 24
    return struct.pack("=IIIIq", packed, *times, round(scheduled * 1e9) + MONOTONIC)


def test_latency_starts_at_the_schedule() -> None:
    records = record(2, 0, 1.0, 0.001, 0.25, 0.75) + record(0, 3, 2.0, 0, NEVER, NEVER)
    log = read_hv_load(records, (MESSAGES % 2).encode())
    first, second = log.requests.to_dict("records")
    assert first["target"] == 2
    assert first["scheduled"] == pytest.approx(1_700_000_001.0)
    assert first["latency"] == pytest.approx(0.75)
    assert (first["delay"], first["sent"]) == (0.001, 0.25)
    assert math.isnan(second["sent"])
    assert (first["good"], second["good"]) == (True, False)
    assert second["latency"] == math.inf
    assert log.cpu_share == 0.25


def test_logs_of_several_processes_are_one() -> None:
    """The share of a CPU is that of the busiest process."""
    messages = (
        f"started {MONOTONIC} {REALTIME}\ncpu 1000 of 10000\nrecords 1\ncpu 4000 of 10000\n"
        "records 2\ncpu 0 of 10000\nrecords 0\n"
    ).encode()
    records = b"".join(record(target, 0, 1.0, 0, 0, 0.1) for target in (16383, 0, 7))
    log = read_hv_load(records, messages)
    assert log.requests["target"].tolist() == [16383, 0, 7]
    assert log.requests["good"].all()
    assert log.cpu_share == pytest.approx(0.4)
    with pytest.raises(WorkloadError, match="hv-load did not finish"):
        read_hv_load(records[:-24], messages)
    with pytest.raises(WorkloadError, match="hv-load did not finish"):
        read_hv_load(records, messages.removesuffix(b"records 0\n"))


@pytest.mark.parametrize("status", [1, 2, 3])
def test_bad_answer_is_infinitely_late(status: int) -> None:
    log = read_hv_load(record(0, status, 1.0, 0, 0, 0.1), (MESSAGES % 1).encode())
    assert log.requests["latency"].tolist() == [math.inf]


@pytest.mark.parametrize(
    ("size", "messages"),
    [
        (24, b""),
        (23, (MESSAGES % 1).encode()),
        (24, (MESSAGES % 2).encode()),
        (24, b"started x y\n"),
        (24, (MESSAGES % 1).replace("started", "hv-load: timer: error\nbegan").encode()),
    ],
)
def test_output_that_is_not_complete_is_an_error(size: int, messages: bytes) -> None:
    with pytest.raises(WorkloadError, match="hv-load did not finish"):
        read_hv_load(record(0, 0, 1, 0, 0, 1)[:size], messages)


@pytest.mark.parametrize(
    ("target", "delay", "sent", "done"),
    [
        (2, 0, 0, 0),
        (16777215, 0, 0, 0),
        (0, 0.2, 0.1, 0.3),
        (0, 0, 0.2, 0.1),
        (0, 0, NEVER, 0.1),
        (0, 0, 0.1, NEVER),
        (0, 0, NEVER, NEVER),
    ],
)
def test_impossible_records_are_an_error(
    target: int, delay: float, sent: float, done: float
) -> None:
    """An answer may have attacked hv-load."""
    records = record(0, 0, 1, 0, 0, 0) + record(target, 0, 1, delay, sent, done)
    with pytest.raises(WorkloadError, match="of targets or times that it was not given") as caught:
        read_hv_load(records, (MESSAGES % 2).encode(), 2)
    assert "may have attacked" in caught.value.hint
    assert len(read_hv_load(records[:24] * 2, (MESSAGES % 2).encode(), 1).requests) == 2


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
    assert log["sent"].tolist() == [0.00012, 0.00012]


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


START, END, RATE = 1000.0, 1300.0, 20.0


def poisson(rate: float, until: float = END + 10, seed: int = 1) -> list[tuple[float, float]]:
    """Transactions of 10 ms that pgbench starts 5 s before the window."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, round(2 * rate * (until - START)))
    times = START - 5 + np.cumsum(gaps)
    return [(float(time), 0.01) for time in times[times < until]]


def window(log: pd.DataFrame) -> pd.DataFrame:
    return in_window(log, START, END)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("rate", [0.5, 20.0])
def test_poisson_schedule_has_no_missing_arrivals(rate: float, seed: int) -> None:
    transactions = poisson(rate, seed=seed)
    log = read_pgbench(lines(*transactions), 0, rate, START, END)
    assert len(log) == len(transactions)
    assert log["good"].all()


def test_arrivals_that_are_not_logged_count_as_unanswered() -> None:
    """Here in the middle of the window, where busy clients gave up without a word."""
    transactions = [one for one in poisson(RATE) if not 1100 <= one[0] < 1150]
    log = window(read_pgbench(lines(*transactions), 0, RATE, START, END))
    assert len(log) == RATE * (END - START)
    assert log["good"].mean() == pytest.approx(5 / 6, abs=0.02)


def test_a_few_missing_arrivals_may_be_chance() -> None:
    transactions = [one for one in poisson(RATE) if not 1100 <= one[0] < 1105]
    assert read_pgbench(lines(*transactions), 0, RATE, START, END)["good"].all()


def test_slow_server_leaves_a_backlog_at_the_end() -> None:
    """pgbench started the arrivals up to 1200 only, as its clients were busy until its end."""
    transactions = poisson(RATE, until=1200)
    log = window(read_pgbench(lines(*transactions), 0, RATE, START, END))
    late = log[log["scheduled"] > 1200.5]
    assert len(late) == pytest.approx(RATE * 99.5, abs=2)
    assert not late["good"].any()
    assert log[log["scheduled"] < 1199.5]["good"].all()


def test_client_that_gave_up_leaves_one_unanswered_arrival() -> None:
    transactions = poisson(RATE)
    after = transactions[-1][0] + 1  # part of the backlog
    log = read_pgbench(lines(*transactions), 0, RATE, START, END, [1100.0, 1100.0, after])
    assert log[~log["good"]]["scheduled"].tolist() == [1100.0, 1100.0]


@pytest.mark.parametrize("word", ["failed", "skipped", "deadlock", "serialization"])
def test_failed_transaction_is_unanswered(word: str) -> None:
    text = lines((100.0, 0.1)) + f"0 9 {word} 0 101 500000 120\n".encode() + lines((102.0, 0.1))
    log = read_pgbench(text, 0, 1.0, 99.0, 103.0)
    assert log["good"].tolist() == [True, False, True]
    assert log["scheduled"].tolist() == pytest.approx([100.0, 101.5, 102.0])
    assert np.isinf(log["latency"].iloc[1])


def test_window_is_half_open_and_of_schedules() -> None:
    log = pd.DataFrame({"scheduled": [0.9, 1.0, 1.5, 2.0], "latency": [9.0, 9.0, 9.0, 9.0]})
    assert in_window(log, 1.0, 2.0)["scheduled"].tolist() == [1.0, 1.5]


def test_latency_of_no_request_is_not_a_number() -> None:
    assert math.isnan(latency_at(pd.Series([0.1])[:0], 99))


def test_one_unanswered_request_shows_only_beyond_its_rank() -> None:
    latencies = pd.Series([0.1] * 99 + [math.inf])
    assert latency_at(latencies, 99) == 0.1
    assert latency_at(latencies, 100) == math.inf


def several_targets() -> pd.DataFrame:
    """Of targets 0, 1 and 3 of 5, in no order."""
    random = np.random.default_rng(3)
    count = 3000
    target = random.choice([0, 1, 3], count).astype(np.int32)
    return pd.DataFrame({"target": target, "latency": random.lognormal(-6, 1, count)})


def test_parts_are_the_requests_of_each_target() -> None:
    log = several_targets()
    parts = list(by_target(log, 5))
    assert len(parts) == 5
    for target, part in enumerate(parts):
        pd.testing.assert_frame_equal(part, log[log["target"] == target])


def test_curves_are_of_all_targets_of_a_name() -> None:
    log = several_targets()
    curves = latency_curves(log, ["web", "cache", "idle", "web", "idle"])
    web = log.loc[log["target"].isin([0, 3]), "latency"]
    assert curves["web"] == latencies_at(web, CURVE)
    assert curves["web"][-1] == web.max()
    assert curves["cache"] == latencies_at(log.loc[log["target"] == 1, "latency"], CURVE)
    assert all(map(math.isnan, curves["idle"]))


def test_a_transaction_of_long_ago_adds_no_arrivals_before_the_window() -> None:
    """A server's answers may have changed the log: arrivals since 1970 would fill the memory."""
    log = read_pgbench(b"0 1 1000 0 1 0 10\n", 0, 20.0, 1.7e9, 1.7e9 + 10)
    assert 100 < len(log) < 300
    assert not log.loc[log["scheduled"] >= 1.7e9, "good"].any()
