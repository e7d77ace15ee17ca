"""The log of a load: one row for each request, whichever program sent it.

Columns of a log: target (index of the load's targets), scheduled (s since the epoch), delay (s that
the generator was late to notice the arrival; NaN where pgbench does not say), latency (s from the
scheduled arrival to the answer; infinite without a good answer), good (a right answer came).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from harness.errors import WorkloadError

# images/workload/tools/hv-load/load.h: struct record
_RECORD = np.dtype(
    [("target_status", "<u4"), ("delay", "<u4"), ("scheduled", "<i8"), ("done", "<i8")]
)
RECORD_SIZE = _RECORD.itemsize
_TARGET_BITS = 24
_OK = 0
_STARTED = re.compile(rb"^started (\d{1,18}) (\d{1,19})$", re.MULTILINE)
_CPU = re.compile(rb"^cpu (\d{1,15}) of (\d{1,15})$", re.MULTILINE)
_COUNT = re.compile(rb"^records (\d{1,9})$", re.MULTILINE)
# pgbench(1), "Per-Transaction Logging": client, transaction, time (us), script, epoch, us, lag
_TRANSACTION = re.compile(rb"^\d+ \d+ (\d{1,12}) \d+ (\d{1,12}) (\d{1,6}) (\d{1,12})$")
_MISSING_GAPS = 5  # mean gaps between arrivals without any, before some count as missing


@dataclass(frozen=True)
class HvLoadLog:
    """What hv-load reported.

    requests: a log. started: s since the epoch. cpu_share: CPU time as a share of one CPU, of its
    busiest process.
    """

    requests: pd.DataFrame
    started: float
    cpu_share: float


def read_hv_load(records: bytes, messages: bytes) -> HvLoadLog:
    """Read hv-load's standard output and error. Raises WorkloadError."""
    started = _STARTED.search(messages)
    cpu, counts = _CPU.findall(messages), _COUNT.findall(messages)
    expected = sum(map(int, counts)) * RECORD_SIZE
    if not (started and cpu and len(cpu) == len(counts)) or len(records) != expected:
        raise WorkloadError(
            f"hv-load did not finish: {messages[-200:].decode(errors='replace')!r}, "
            f"{len(records)} bytes of records",
            hint="read the console of the guest that generates the load",
            stage="run",
        )
    monotonic, realtime = int(started[1]), int(started[2])
    table = np.frombuffer(records, _RECORD)
    packed, scheduled, done = table["target_status"], table["scheduled"], table["done"]
    good = (packed >> _TARGET_BITS == _OK) & (done > 0)
    frame = pd.DataFrame(
        {
            "target": (packed & ((1 << _TARGET_BITS) - 1)).astype(np.int32),
            "scheduled": (scheduled - monotonic + realtime) / 1e9,
            "delay": table["delay"] / 1e6,
            "latency": np.where(good, (done - scheduled) / 1e9, np.inf),
            "good": good,
        }
    )
    cpu_share = max(int(used) / max(1, int(of)) for used, of in cpu)
    return HvLoadLog(frame, realtime / 1e9, cpu_share)


def read_pgbench(log: bytes, target: int, rate: float, since: float, until: float) -> pd.DataFrame:
    """Read pgbench's log of transactions with --rate, where latency starts at the schedule.

    since, until: of its load, s since the epoch. pgbench forgets transactions that it could not
    start. If its log ends well before `until`, the arrivals that are missing count as unanswered,
    at equal intervals.

    Raises WorkloadError for a line that is no transaction.
    """
    rows: list[tuple[float, float]] = []
    lines = log.splitlines()
    for number, line in enumerate(lines):
        match = _TRANSACTION.match(line)
        if match:
            latency, seconds, microseconds, _lag = map(int, match.groups())
            rows.append((seconds + microseconds / 1e6 - latency / 1e6, latency / 1e6))
        elif number < len(lines) - 1:  # a killed pgbench leaves half of its last line
            raise WorkloadError(f"pgbench logged {line[:80]!r}", hint="check pgbench's version")
    rows.sort()
    scheduled = [row[0] for row in rows]
    latencies = [row[1] for row in rows]
    good = [True] * len(rows)
    gap = 1 / rate
    missing = np.arange((scheduled[-1] if rows else since) + gap, until, gap)
    if len(missing) > _MISSING_GAPS:
        scheduled += list(missing)
        latencies += [np.inf] * len(missing)
        good += [False] * len(missing)
    columns: dict[str, Any] = {
        "target": target, "scheduled": scheduled, "delay": np.nan, "latency": latencies,
        "good": good,
    }  # fmt: skip
    return pd.DataFrame(columns)


def in_window(log: pd.DataFrame, start: float, end: float) -> pd.DataFrame:
    """The requests whose scheduled arrival is in [start, end), seconds since the epoch."""
    return log[(log["scheduled"] >= start) & (log["scheduled"] < end)]


def latency_at(latencies: pd.Series[float], percentile: float) -> float:
    """The latency that `percentile` per cent of the requests do not exceed: an order statistic,
    so that one without an answer makes it infinite only where it counts. NaN for no request."""
    if latencies.empty:
        return float("nan")
    ordered = np.sort(latencies.to_numpy())
    rank = int(np.ceil(percentile / 100 * len(ordered)))
    return float(ordered[max(rank, 1) - 1])
