"""What a guest is asked costs CPU time, too: whoever measures by it must not find that in it."""

from __future__ import annotations

import threading
from typing import Callable

_CPU = "cgroup_cpu_usec"

Counters = dict[str, int]


class OverheadCorrectedCounters:
    """costs: the counters of a guest's cgroup."""

    def __init__(self, costs: Callable[[], Counters]) -> None:
        self._costs = costs
        self._left_out = 0
        self._lock = threading.Lock()

    def during(self, ask: Callable[[], Counters]) -> Counters:
        """The cgroup's counters and what `ask` tells. The cgroup's CPU time is without all that has
        gone by during calls of this: also a guest's own work, if it was at work then."""
        with self._lock:
            before = self._costs()
            counted = {**before, **ask()}
            if _CPU in before:
                counted[_CPU] = before[_CPU] - self._left_out
                self._left_out += self._costs()[_CPU] - before[_CPU]
            return counted
