"""When a guest reached each stage of its boot."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable

STAGES = ("create", "kernel", "init", "sshd", "ready")
CLONE_STAGES = ("create", "restored", "adopted", "ready")  # adopted: its identity is its own

_MARK = re.compile(r"harness: (init|sshd) (\d+)\b")


class Timeline:
    """Marks of the boot stages, in nanoseconds of the host's CLOCK_MONOTONIC. Safe from threads.

    The host may be another machine with another clock: `now` translates from this process's
    clock by the smallest delay seen between a stamp made there and its arrival here. On a host
    that shares the clock that delay is well below a millisecond.
    """

    def __init__(
        self,
        clock: Callable[[], int] = time.monotonic_ns,
        stages: tuple[str, ...] = STAGES,
    ) -> None:
        self._clock = clock
        self.stages = stages
        self._lock = threading.Lock()
        self._marks: dict[str, int] = {}
        self._guest_clock: dict[str, int] = {}
        self._offset: int | None = None

    def stamp(self, time_ns: int) -> None:
        """Note that a host's stamp has just arrived here."""
        offset = self._clock() - time_ns
        with self._lock:
            if self._offset is None or offset < self._offset:
                self._offset = offset

    def now(self) -> int:
        """Now, on the host's clock (this process's own before the first stamp)."""
        with self._lock:
            return self._clock() - (self._offset or 0)

    def mark(self, stage: str, time_ns: int) -> None:
        """A stage is reached. The first mark counts: a guest that resets does not boot anew."""
        if stage not in self.stages:
            raise ValueError(f"{stage!r} is no stage of a boot: {', '.join(self.stages)}")
        self.stamp(time_ns)
        with self._lock:
            self._marks.setdefault(stage, time_ns)

    def read_line(self, time_ns: int, line: str) -> str | None:
        """Take a console line; returns the stage that it marks, if it does."""
        self.stamp(time_ns)
        found = _MARK.search(line)
        if not found:
            return None
        stage = found[1]
        if stage not in self.stages:
            return None
        with self._lock:
            self._marks.setdefault(stage, time_ns)
            self._guest_clock.setdefault(stage, int(found[2]))
        return stage

    def reached(self, stage: str) -> bool:
        with self._lock:
            return stage in self._marks

    @property
    def next_stage(self) -> str | None:
        """The stage after the last one reached; None when the guest is ready.

        A hypervisor need not tell every stage: QEMU does not say when the kernel starts.
        """
        with self._lock:
            last = max((self.stages.index(stage) for stage in self._marks), default=-1)
            return self.stages[last + 1] if last + 1 < len(self.stages) else None

    @property
    def marks(self) -> dict[str, int]:
        """Stage to host monotonic nanoseconds, in the order of the stages."""
        with self._lock:
            return {stage: self._marks[stage] for stage in self.stages if stage in self._marks}

    @property
    def guest_clock(self) -> dict[str, int]:
        """Stage to the guest's own CLOCK_BOOTTIME nanoseconds, for stages that its init marks."""
        with self._lock:
            return dict(self._guest_clock)

    def seconds(self, stage: str) -> float:
        """Seconds from create to a stage. Raises KeyError when it was not reached."""
        marks = self.marks
        return (marks[stage] - marks["create"]) / 1e9

    def lines(self) -> list[str]:
        """The timeline for a person: one line a stage, "not reached" where it was not."""
        marks = self.marks
        start, width = marks.get("create"), max(map(len, self.stages)) + 1
        shown = []
        for stage in self.stages:
            if stage not in marks:
                shown.append(f"{stage:<{width}} not reached")
            elif start is None:
                shown.append(f"{stage:<{width}} reached")
            else:
                shown.append(f"{stage:<{width}} {(marks[stage] - start) / 1e9:8.3f} s")
        return shown
