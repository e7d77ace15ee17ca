"""The log of a load: one row for each request, whichever program sent it.

Columns of a log: target (index of the load's targets), scheduled (s since the epoch), delay (s that
the generator was late to notice the arrival; NaN where pgbench does not say), sent (s from the
scheduled arrival until a free connection got its first byte; NaN if that is not known), latency (s
from the scheduled arrival to the answer; infinite without a good answer), good (a right answer
came).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from harness.errors import WorkloadError

# images/workload/tools/hv-load/load.h: struct record
_RECORD = np.dtype(
    [
        ("target_status", "<u4"),
        ("delay", "<u4"),
        ("sent", "<u4"),
        ("done", "<u4"),
        ("scheduled", "<i8"),
    ]
)
_NEVER = (1 << 32) - 1  # of sent and done
RECORD_SIZE = _RECORD.itemsize
CURVE = (1, 5, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 100)  # percentiles
_TARGET_BITS = 24
_OK = 0
_STARTED = re.compile(rb"^started (\d{1,18}) (\d{1,19})$", re.MULTILINE)
_CPU = re.compile(rb"^cpu (\d{1,15}) of (\d{1,15})$", re.MULTILINE)
_COUNT = re.compile(rb"^records (\d{1,9})$", re.MULTILINE)
# pgbench(1), "Per-Transaction Logging": client, transaction, time (us), script, epoch, us, lag.
# A word stands for the time of a transaction that failed.
_TRANSACTION = re.compile(
    rb"^\d+ \d+ (\d{1,12}|failed|skipped|serialization|deadlock) \d+ (\d{1,12}) (\d{1,6})"
    rb" (\d{1,12})$"
)
_MISSING_GAPS = 5  # mean gaps between arrivals without any, before some count as missing
_DEVIATIONS = 4  # standard deviations of a Poisson count below its mean, before some are missing


@dataclass(frozen=True)
class HvLoadLog:
    """What hv-load reported.

    requests: a log. started: s since the epoch. cpu_share: CPU time as a share of one CPU, of its
    busiest process.
    """

    requests: pd.DataFrame
    started: float
    cpu_share: float


def find_start(messages: bytes) -> tuple[int, int] | None:
    """When hv-load's ramp begins, in ns: CLOCK_MONOTONIC of its machine, and since the epoch."""
    match = _STARTED.search(messages)
    return (int(match[1]), int(match[2])) if match else None


def read_hv_load(records: bytes, messages: bytes, targets: int = 1 << _TARGET_BITS) -> HvLoadLog:
    """Read hv-load's standard output and error. targets: their number. Raises WorkloadError.

    hv-load reads what servers answer, so its records are checked, too.
    """
    started = find_start(messages)
    cpu, counts = _CPU.findall(messages), _COUNT.findall(messages)
    expected = sum(map(int, counts)) * RECORD_SIZE
    if not (started and cpu and len(cpu) == len(counts)) or len(records) != expected:
        raise WorkloadError(
            f"hv-load did not finish: {messages[-200:].decode(errors='replace')!r}, "
            f"{len(records)} bytes of records",
            hint="read the console of the guest that generates the load",
            stage="run",
        )
    monotonic, realtime = started
    table = np.frombuffer(records, _RECORD)
    packed, delay, sent, done = map(table.__getitem__, ("target_status", "delay", "sent", "done"))
    good = packed >> _TARGET_BITS == _OK
    target = (packed & ((1 << _TARGET_BITS) - 1)).astype(np.int32)
    impossible = (delay > sent) | (sent > done) | (done == _NEVER)
    if (target >= targets).any() or (good & impossible).any():
        raise WorkloadError(
            "hv-load's records are of targets or times that it was not given",
            hint="check the servers of the workload image: an answer may have attacked hv-load",
            stage="run",
        )
    frame = pd.DataFrame(
        {
            "target": target,
            "scheduled": (table["scheduled"] - monotonic + realtime) / 1e9,
            "delay": delay / 1e6,
            "sent": np.where(sent < _NEVER, sent / 1e6, np.nan),
            "latency": np.where(good, done / 1e6, np.inf),
            "good": good,
        },
        copy=False,
    )
    cpu_share = max(int(used) / max(1, int(of)) for used, of in cpu)
    return HvLoadLog(frame, realtime / 1e9, cpu_share)


def read_pgbench(
    log: bytes,
    target: int,
    rate: float,
    start: float,
    end: float,
    aborted: Sequence[float] = (),
) -> pd.DataFrame:
    """Read pgbench's log of transactions with --rate, where latency starts at the schedule.

    start, end: of the measured window, s since the epoch. aborted: when clients gave up, each with
    a transaction. pgbench logs a transaction at its end, and a client takes an arrival when it is
    free. So three kinds of arrivals are not logged, and count here as unanswered: those that wait
    when pgbench ends, those of clients that gave up, and those of clients that still wait for an
    answer. If the log ends well before `end`, arrivals are added there at equal intervals. If fewer
    than a Poisson process can have are then in the window, the difference from its mean is added.

    Raises WorkloadError for a line that is no transaction.
    """
    scheduled, sent, latencies = _transactions(log)
    last = max([start, *scheduled])  # whatever times a line claims
    unanswered = [moment for moment in aborted if moment < last]
    gap = 1 / rate
    missing = np.arange(last + gap, end, gap)
    if len(missing) > _MISSING_GAPS:
        unanswered += missing.tolist()
    expected = rate * (end - start)
    count = sum(start <= moment < end for moment in (*scheduled, *unanswered))
    if count < expected - _DEVIATIONS * np.sqrt(expected):
        lost = round(expected) - count
        unanswered += (start + (np.arange(lost) + 0.5) * (end - start) / lost).tolist()
    sent += [np.nan] * len(unanswered)
    latencies += [np.inf] * len(unanswered)
    columns: dict[str, Any] = {
        "target": np.int32(target),
        "scheduled": np.array(scheduled + unanswered),
        "delay": np.nan,
        "sent": np.array(sent),
        "latency": np.array(latencies),
        "good": np.isfinite(latencies),
    }
    return pd.DataFrame(columns)


def _transactions(log: bytes) -> tuple[list[float], list[float], list[float]]:
    """Scheduled arrivals (s since the epoch), and from there (s) until a client was free, and
    until the answer; in the order of arrival.

    A failed transaction has an infinite latency, and its end instead of the arrival.
    """
    rows: list[tuple[float, float, float]] = []
    lines = log.splitlines()
    for number, line in enumerate(lines):
        match = _TRANSACTION.match(line)
        if match:
            ended = int(match[2]) + int(match[3]) / 1e6
            if match[1].isdigit():
                latency = int(match[1]) / 1e6
                rows.append((ended - latency, int(match[4]) / 1e6, latency))
            else:
                rows.append((ended, np.nan, np.inf))
        elif number < len(lines) - 1:  # a killed pgbench leaves half of its last line
            raise WorkloadError(
                f"pgbench logged {line[:80]!r}",
                hint="look for a full disk in the load generator, or check pgbench's version",
                stage="run",
            )
    rows.sort()
    return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]


def in_window(log: pd.DataFrame, start: float, end: float) -> pd.DataFrame:
    """The requests whose scheduled arrival is in [start, end), seconds since the epoch."""
    return log[(log["scheduled"] >= start) & (log["scheduled"] < end)]


def by_target(log: pd.DataFrame, targets: int) -> Iterator[pd.DataFrame]:
    """The requests of each target, from 0. They are sorted once, as there may be many targets."""
    numbers = log["target"].to_numpy()
    order = np.argsort(numbers, kind="stable")
    bounds = np.cumsum(np.bincount(numbers, minlength=targets))
    for start, end in pairwise((0, *bounds.tolist())):
        yield log.iloc[order[start:end]]


def latencies_at(latencies: pd.Series[float], percentiles: Sequence[float]) -> list[float]:
    """The latencies that so many per cent of the requests do not exceed: order statistics, so that
    one without an answer makes them infinite only where it counts. NaN for no request."""
    ordered = np.sort(latencies.to_numpy())
    if not len(ordered):
        return [math.nan] * len(percentiles)
    ranks = (math.ceil(percentile / 100 * len(ordered)) for percentile in percentiles)
    return [float(ordered[max(rank, 1) - 1]) for rank in ranks]


def latency_at(latencies: pd.Series[float], percentile: float) -> float:
    """See latencies_at()."""
    return latencies_at(latencies, [percentile])[0]


def latency_curves(log: pd.DataFrame, names: Sequence[str]) -> dict[str, list[float]]:
    """The latencies at CURVE of all targets of a name together. names: by the target's index."""
    known = list(dict.fromkeys(names))
    numbers = np.array([known.index(name) for name in names], np.uint16)
    of_name = numbers[log["target"].to_numpy()]
    return {
        name: latencies_at(log.loc[of_name == number, "latency"], CURVE)
        for number, name in enumerate(known)
    }
