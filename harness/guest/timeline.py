"""The times at which a guest reaches the stages of its boot."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable

STAGES = ("create", "kernel", "init", "sshd", "ready")
CLONE_STAGES = ("create", "restored", "adopted", "ready")  # adopted: it has its own identity

_MARK = re.compile(r"harness: (init|sshd) (\d+)\b")


class Timeline:
    """Marks of the boot stages in nanoseconds of the host's CLOCK_MONOTONIC. Thread-safe.

    The host may be a machine with another clock. `now` converts this process's time by the smallest
    observed difference between a host's stamp and its arrival here. On the local host the
    difference is far below a millisecond.
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
        """Update the clock difference by a host's stamp that has just arrived."""
        offset = self._clock() - time_ns
        with self._lock:
            if self._offset is None or offset < self._offset:
                self._offset = offset

    def now(self) -> int:
        """The current time of the host's clock; of this process's clock before the first stamp."""
        with self._lock:
            return self._clock() - (self._offset or 0)

    def mark(self, stage: str, time_ns: int) -> None:
        """Record that a stage is reached. Later marks of a stage are ignored, as after a reset."""
        if stage not in self.stages:
            raise ValueError(
                f"{stage!r} is not a boot stage; the stages are {', '.join(self.stages)}"
            )
        self.stamp(time_ns)
        with self._lock:
            self._marks.setdefault(stage, time_ns)

    def read_line(self, time_ns: int, line: str) -> str | None:
        """Read a console line. Returns the stage that it marks, or None."""
        self.stamp(time_ns)
        match = _MARK.search(line)
        if not match:
            return None
        stage = match[1]
        if stage not in self.stages:
            return None
        with self._lock:
            self._marks.setdefault(stage, time_ns)
            self._guest_clock.setdefault(stage, int(match[2]))
        return stage

    def reached(self, stage: str) -> bool:
        """Whether the stage is marked."""
        with self._lock:
            return stage in self._marks

    @property
    def next_stage(self) -> str | None:
        """The stage after the last marked one; None when the guest is ready.

        Hypervisors may skip stages: QEMU does not report the start of the kernel.
        """
        with self._lock:
            last = max((self.stages.index(stage) for stage in self._marks), default=-1)
            return self.stages[last + 1] if last + 1 < len(self.stages) else None

    @property
    def marks(self) -> dict[str, int]:
        """Stages and their times on the host's monotonic clock (ns), in the order of the stages."""
        with self._lock:
            return {stage: self._marks[stage] for stage in self.stages if stage in self._marks}

    @property
    def guest_clock(self) -> dict[str, int]:
        """Stages that the init reports, and their times on the guest's CLOCK_BOOTTIME (ns)."""
        with self._lock:
            return dict(self._guest_clock)

    def seconds(self, stage: str) -> float:
        """Seconds from "create" to a stage. Raises KeyError when it was not reached."""
        marks = self.marks
        return (marks[stage] - marks["create"]) / 1e9

    def lines(self) -> list[str]:
        """The timeline as text, one line per stage.

        A hypervisor need not report every stage: one before a reached stage was "not reported".
        """
        marks = self.marks
        start, width = marks.get("create"), max(map(len, self.stages)) + 1
        lines = []
        reached = max((self.stages.index(stage) for stage in marks), default=-1)
        for place, stage in enumerate(self.stages):
            if stage not in marks:
                word = "reported" if place < reached else "reached"
                lines.append(f"{stage:<{width}} not {word}")
            elif start is None:
                lines.append(f"{stage:<{width}} reached")
            else:
                lines.append(f"{stage:<{width}} {(marks[stage] - start) / 1e9:8.3f} s")
        return lines
