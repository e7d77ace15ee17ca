"""HdrHistogram logs of points: what its tools and other load generators' tools read.

Format: version 1.3 of HdrHistogram's log, an interval of one second for each guest's name that had
requests then. See the class HistogramLogWriter of https://github.com/HdrHistogram/HdrHistogram.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from hdrh.histogram import HdrHistogram

from harness.results.atomic_write import atomic_write

HIGHEST = 3_600_000_000  # us: an hour, and the value of a request without a good answer
DIGITS = 3  # significant ones
_VALUES = HIGHEST + 1  # different ones
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

    requests: of the window, see suites.consolidation.requests. names: of the guests, by the index
    of the target; those of one name are one tag, and white space and commas become "_". start, end:
    of the window, s since the epoch. A request without a good answer has the value HIGHEST, so that
    it shows in the percentiles: a comment would be lost when logs are added.
    """
    header = _HEADER.format(highest=HIGHEST, start=start)
    lines = _lines(requests, names, start, end)
    with (
        atomic_write(path) as partial,
        partial.open("w", encoding="ascii", errors="replace") as file,
    ):
        file.write(header)
        file.writelines(lines)


def _lines(requests: pd.DataFrame, names: Sequence[str], start: float, end: float) -> Iterator[str]:
    """A line for each second and name, in order of time."""
    tags, tag_of = np.unique([_NO_TAG.sub("_", name) for name in names], return_inverse=True)
    seconds = (requests["scheduled"] - start).to_numpy(int)
    interval = seconds * len(tags) + tag_of[requests["target"].to_numpy()]
    latency = requests["latency"].where(requests["good"], math.inf).to_numpy()
    value = np.clip(np.rint(latency * 1e6), 1, HIGHEST).astype(np.int64)
    pairs, counts = np.unique(interval * _VALUES + value, return_counts=True)
    intervals, values = np.divmod(pairs, _VALUES)
    starts = np.flatnonzero(np.diff(intervals, prepend=-1))
    histogram = HdrHistogram(1, HIGHEST, DIGITS)
    for first, last in pairwise((*starts.tolist(), len(pairs))):
        second, tag = divmod(int(intervals[first]), len(tags))
        histogram.reset()
        part = slice(first, last)
        for one, count in zip(values[part].tolist(), counts[part].tolist(), strict=True):
            histogram.record_value(one, count)
        length = min(1.0, end - start - second)
        longest = histogram.get_max_value() / 1000  # ms
        payload = histogram.encode().decode("ascii")
        yield f"Tag={tags[tag]},{second:.3f},{length:.3f},{longest:.3f},{payload}\n"
