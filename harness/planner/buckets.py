"""Samples on disk, split by machine into BUCKETS files, so that each part fits in memory."""

from __future__ import annotations

import contextlib
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from harness.planner.inventory import MAX_MACHINES, check_name, too_many_machines
from harness.planner.sources.base import COLUMNS, Samples
from harness.planner.trace import BUCKETS

# One sample. vm: the number of the machine, see SampleBuckets.names. time: ms since the epoch.
ROW = np.dtype([("vm", "<i4"), ("time", "<i8"), ("values", "<f4", (len(COLUMNS),))])
Rows = NDArray[np.void]

_EARLIEST, _LATEST = 631_152_000_000, 4_102_444_800_000  # 1990 and 2100, in ms
_LARGEST = 1e9  # of any demand


def bucket_of(name: str) -> int:
    """The bucket of a machine. It is the same in every import."""
    return zlib.crc32(name.encode()) % BUCKETS


class SampleBuckets:
    """Writes samples in one pass, and reads them bucket by bucket.

    names: of machines, by number. Use it as a context manager, which closes its files.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.names: list[str] = []
        self.rows = 0
        self._paths = [folder / f"{number:02}.rows" for number in range(BUCKETS)]
        self._files: list[BinaryIO] = []
        self._numbers: dict[str, int] = {}
        self._buckets = np.zeros(0, np.uint8)

    def __enter__(self) -> SampleBuckets:
        with contextlib.ExitStack() as stack:
            self._files = [stack.enter_context(path.open("wb")) for path in self._paths]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, samples: Samples) -> None:
        """Raises PlanError for demand, a time or a name that cannot be."""
        if not len(samples.time):
            return
        _check(samples)
        # A dictionary may have names that no row uses.
        used = np.bincount(samples.machine, minlength=len(samples.names)) > 0
        numbers = np.full(len(samples.names), -1, np.int32)
        for place in np.flatnonzero(used).tolist():
            numbers[place] = self._number(samples.names[place])
        rows = np.empty(len(samples.time), ROW)
        rows["vm"] = numbers[samples.machine]
        rows["time"] = samples.time
        for place, column in enumerate(COLUMNS):
            rows["values"][:, place] = samples.values.get(column, np.nan)
        self.rows += len(rows)
        buckets = self._buckets[rows["vm"]]
        if (buckets == buckets[0]).all():  # such as all rows of one machine
            self._files[buckets[0]].write(rows.data)
            return
        order = np.argsort(buckets, kind="stable")
        ends = np.cumsum(np.bincount(buckets, minlength=BUCKETS))
        rows = rows[order]
        for bucket, (first, last) in enumerate(zip([0, *ends], ends, strict=False)):
            if last > first:
                self._files[bucket].write(rows[first:last].data)

    def flush(self) -> None:
        for file in self._files:
            file.flush()

    def read(self, bucket: int) -> Rows:
        return np.fromfile(self._paths[bucket], ROW)

    def remove(self, bucket: int) -> None:
        """Free the disk of a bucket that is not needed any more."""
        self._paths[bucket].unlink()

    def _number(self, name: str) -> int:
        number = self._numbers.get(name)
        if number is None:
            check_name(name, "machine")
            if len(self.names) >= MAX_MACHINES:
                raise too_many_machines()
            number = self._numbers[name] = len(self.names)
            self.names.append(name)
            if number >= len(self._buckets):
                self._buckets = np.resize(self._buckets, max(1024, 2 * number))
            self._buckets[number] = bucket_of(name)
        return number


def _check(samples: Samples) -> None:
    """Raises PlanError for negative or infinite demand, and for a time outside 1990 to 2100."""
    time = samples.time
    if time.min() < _EARLIEST or time.max() >= _LATEST:
        raise samples.file.error(
            "a time is not between the years 1990 and 2100", "correct the time of the export"
        )
    for column, values in samples.values.items():
        with np.errstate(invalid="ignore"):
            bad = (values < 0) | (values > _LARGEST)
        if bad.any():
            place = int(bad.argmax())
            name = samples.names[samples.machine[place]]
            raise samples.file.error(
                f"{column} of machine {name} is {values[place]:g}",
                f"correct the column that {column} is read from: it must be between 0 and 1e9",
            )
