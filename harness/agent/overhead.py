"""Leaves the CPU time of reading counters out of these counters."""

from __future__ import annotations

import threading
from typing import Callable

_CPU = "cgroup_cpu_usec"

Counters = dict[str, int]


class OverheadCorrectedCounters:
    """Counters of a guest, without the CPU time that the reading itself costs."""

    def __init__(self, read_cgroup: Callable[[], Counters]) -> None:
        """read_cgroup: returns the counters of the guest's cgroup."""
        self._read_cgroup = read_cgroup
        self._overhead = 0  # us
        self._lock = threading.Lock()

    def read(self, read_guest: Callable[[], Counters]) -> Counters:
        """The cgroup's counters, joined with those that `read_guest` returns.

        The cgroup's CPU time excludes the time spent in all calls of this method. That also
        excludes the guest's own work during these calls.
        """
        with self._lock:
            before = self._read_cgroup()
            counters = {**before, **read_guest()}
            if _CPU in before:
                counters[_CPU] = before[_CPU] - self._overhead
                self._overhead += self._read_cgroup()[_CPU] - before[_CPU]
            return counters
