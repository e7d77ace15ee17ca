"""HdrHistogram logs of points: what its tools and other load generators' tools read.

Format: version 1.3 of HdrHistogram's log, an interval of one second for each guest's name that had
requests then. See the class HistogramLogWriter of https://github.com/HdrHistogram/HdrHistogram.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from hdrh.histogram import HdrHistogram

from harness.results.atomic_write import atomic_write
from suites.consolidation.requests import in_window

HIGHEST = 3_600_000_000  # us: an hour, and the value of a request without a good answer
DIGITS = 3  # significant ones
_NO_TAG = re.compile(r"[\s,]+")  # characters that a tag cannot have
_HEADER = """\
#[Histogram log format version 1.3]
#[Latencies in us from the scheduled arrival, by the second of the arrival]
#[A request without a good answer counts as {highest} us]
#[BaseTime: {start:.3f} (seconds since epoch)]
#[StartTime: {start:.3f} (seconds since epoch)]
"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"
"""


def write_log(
    path: Path, requests: pd.DataFrame, names: Sequence[str], start: float, end: float
) -> None:
    """Write the log of a window.

    requests: a log, see suites.consolidation.requests. names: of the guests, by the index of the
    target; those of one name are one tag, and white space and commas become "_". start, end: of the
    window, s since the epoch. A request without a good answer has the value HIGHEST, so that it
    shows in the percentiles: a comment would be lost when logs are added.
    """
    header = _HEADER.format(highest=HIGHEST, start=start)
    lines = _lines(in_window(requests, start, end), names, start, end)
    with (
        atomic_write(path) as partial,
        partial.open("w", encoding="ascii", errors="replace") as file,
    ):
        file.write(header)
        file.writelines(lines)


def _lines(requests: pd.DataFrame, names: Sequence[str], start: float, end: float) -> Iterator[str]:
    """A line for each second and name, in order of time."""
    tags = np.array([_NO_TAG.sub("_", name) for name in names], dtype=object)
    latency = np.where(requests["good"], requests["latency"] * 1e6, HIGHEST)
    counts = pd.DataFrame(
        {
            "second": (requests["scheduled"] - start).astype(int),
            "tag": tags[requests["target"].to_numpy(int)],
            "value": np.clip(np.rint(latency), 1, HIGHEST).astype(np.int64),
        }
    )
    counts = counts.value_counts(sort=False).reset_index(name="count")
    histogram = HdrHistogram(1, HIGHEST, DIGITS)
    for _, part in counts.groupby(["second", "tag"]):
        second, tag = int(part["second"].iloc[0]), part["tag"].iloc[0]
        histogram.reset()
        for value, count in zip(part["value"], part["count"], strict=True):
            histogram.record_value(int(value), int(count))
        length = min(1.0, end - start - second)
        longest = histogram.get_max_value() / 1000  # ms
        payload = histogram.encode().decode("ascii")
        yield f"Tag={tag},{second:.3f},{length:.3f},{longest:.3f},{payload}\n"
