"""The load generator: a container of the workload image in the guests' network.

It has CPUs and a cgroup of its own. What reads the servers' answers is confined there: hv-load
drops its rights itself, pgbench runs as nobody.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import pandas as pd
import pytest

from harness.agent.utilization import memory_available
from harness.errors import HarnessError, WorkloadError
from harness.guest.factory import GuestFactory
from harness.guest.guest import Guest
from harness.hypervisors.base import DEFAULT_ROOT
from harness.hypervisors.native import NativeHypervisor
from harness.hypervisors.supervised import SupervisedHypervisor
from images.image import GuestImage
from suites.consolidation.capacity import Capacity, MeasuredCost
from suites.consolidation.pgbench import Pgbench
from suites.consolidation.requests import (
    RECORD_SIZE,
    HvLoadLog,
    find_start,
    in_window,
    read_hv_load,
)
from suites.consolidation.target import Schedule, Target

_MIN_MEMORY, _MAX_MEMORY = 512, 8192  # MiB of the container
_MEMORY_SHARE = 8  # the container has at most this part of the host's memory
FOLDER = "/tmp/load"  # noqa: S108 - in the container
_SLACK = 30.0  # seconds beyond the schedule until a generator counts as late
_TRANSFER = 1 << 20  # bytes of records a second, at least
_MAX_CONNECT = 30.0  # seconds in which the databases accept pgbench's connections
_ABORT_TIMEOUT, _ABORT_INTERVAL = 10.0, 0.5


@dataclass(frozen=True)
class Load:
    """A load that was run.

    requests: of the measured window; see suites.consolidation.requests. start, end: of that window,
    s since the epoch. answers: good ones of the whole load, as servers count them, too. cpu_share:
    CPU time of hv-load on the busiest CPU, as a share of it. notes: the last error of a target's
    generator, or "". Answers and notes are by the target's index.
    """

    requests: pd.DataFrame
    start: float
    end: float
    answers: Mapping[int, int]
    cpu_share: float
    notes: Mapping[int, str]


class ServersLateError(WorkloadError):
    """Servers that run did not accept connections in time: there are too many on the host."""


@dataclass(frozen=True)
class Window:
    """The measured window of a load that runs.

    start, end: s of the host's CLOCK_MONOTONIC. local_start: the same by time.monotonic() of this
    process, late by the time that hv-load's first message took.
    """

    start: float
    end: float
    local_start: float

    @property
    def seconds(self) -> float:
        return self.end - self.start

    def sleep_until(self, seconds: float) -> None:
        """Sleep until so many seconds after its start, or before it if negative."""
        time.sleep(max(0.0, self.local_start + seconds - time.monotonic()))


class LoadGenerator:
    """Generates load from a container. Use it as a context manager."""

    def __init__(self, factory: GuestFactory, image: GuestImage, cpus: Sequence[int]) -> None:
        """factory: of the guests under load. cpus: of the host, for the generator alone.

        Skips the test where the hypervisor has no network that a container can join.
        """
        hypervisor = factory.hypervisor
        if not isinstance(hypervisor, SupervisedHypervisor):
            pytest.skip(f"{hypervisor.name} has no guest network that the load generator can join")
        containers = replace(
            factory,
            hypervisor=NativeHypervisor(hypervisor.host, lambda line: None, shares=hypervisor),
            image=image,
            prefix=f"{factory.prefix}-load",
            boot="auto",
            network="bridge",
            ssh="network",
            root=DEFAULT_ROOT,
        )
        part = hypervisor.host.facts.memory // _MEMORY_SHARE >> 20
        self._memory = min(max(part, _MIN_MEMORY), _MAX_MEMORY)
        self._cost: MeasuredCost | None = None
        self.guest: Guest = containers(
            "generator", memory=self._memory, memory_limit=self._memory, cpus=list(cpus)
        )
        self.cpus = tuple(cpus)

    def start(self, targets: Sequence[Target], schedule: Schedule, seed: int) -> LoadRun:
        """Start a load. The caller waits for its end by `LoadRun.finish()`."""
        return LoadRun(self.guest, targets, schedule, seed, self.cpus)

    def blocker(self, targets: Sequence[Target], schedule: Schedule) -> str:
        """Why the generator cannot carry a load, or ""."""
        capacity = Capacity(len(self.cpus), self._memory, memory_available(), self._cost)
        return capacity.blocker(targets, schedule)

    def observe(self, targets: Sequence[Target], cpu: float) -> None:
        """Note what a load costs, from which blocker() estimates the cost of a larger one.

        cpu: CPU seconds a second that the whole container used at the full rate of these targets.
        """
        rate = sum(one.rate for one in targets)
        if rate > 0 and (self._cost is None or rate >= self._cost.rate):
            self._cost = MeasuredCost(rate, cpu / rate)

    def close(self) -> None:
        """End the container."""
        self.guest.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class LoadRun:
    """A running load: hv-load on each CPU for most targets, and a pgbench for each database."""

    def __init__(
        self,
        guest: Guest,
        targets: Sequence[Target],
        schedule: Schedule,
        seed: int,
        cpus: Sequence[int],
    ) -> None:
        self._guest = guest
        self._targets = targets
        self._schedule = schedule
        self._cpus = cpus
        self._output: tuple[int, bytes, bytes] | HarnessError | None = None
        self._window: Window | None = None
        self._started = threading.Event()
        self._ended = False  # hv-load, by itself
        guest.ssh.run(f"rm -rf {FOLDER} && mkdir -m 1777 {FOLDER}")
        self._others = [i for i, t in enumerate(targets) if t.protocol != "pgbench"]
        # It also runs while answers are awaited, as transactions that have not started are not
        # logged, and starts before hv-load. It is ended when it need not run any longer.
        drain = schedule.database_drain or schedule.drain
        self._to_answers = schedule.measure + drain
        seconds = schedule.ramp + self._to_answers + _MAX_CONNECT
        self._pgbenches: list[Pgbench] = []
        self._thread = threading.Thread(
            target=self._run_hv_load, args=(seed,), name="hv-load", daemon=True
        )
        connecting = time.monotonic()
        try:
            for index, target in enumerate(targets):
                if target.protocol == "pgbench":
                    one = Pgbench(guest, index, target, seconds, drain, seed, FOLDER)
                    self._pgbenches.append(one)
            for one in self._pgbenches:
                one.wait_for_start()
        except BaseException:
            self.abort()
            raise
        offset = time.monotonic() - connecting
        if offset > _MAX_CONNECT:  # the first one would end while answers are awaited
            self.abort()
            raise ServersLateError(
                f"the databases took {offset:.0f} s to accept pgbench's connections",
                hint="give the guests fewer tiles, or look for what keeps the host busy",
                stage="run",
                guest=guest.name,
            )
        self._thread.start()

    def _run_hv_load(self, seed: int) -> None:
        lines = []
        for index in self._others:
            target = self._targets[index]
            words = (target.protocol, target.address, target.port, target.rate, target.arrivals)
            lines.append(" ".join(map(str, words)) + "\n")
        schedule = self._schedule
        numbers = (seed, schedule.ramp, schedule.measure, schedule.drain, *self._cpus)
        # abort() needs the process id
        script = f'echo $$ >{FOLDER}/hv-load.pid && exec hv-load "$@"'
        size = schedule.requests([self._targets[index] for index in self._others]) * RECORD_SIZE
        try:
            self._output = self._guest.ssh.run_bytes(
                ["sh", "-c", script, "sh", *map(str, numbers)],
                timeout=schedule.seconds + _SLACK + size / _TRANSFER,
                input="".join(lines).encode(),
                on_stderr=self._look_for_start,
            )
            self._ended = True
        except HarnessError as error:
            self._output = error
        finally:
            self._started.set()

    def _look_for_start(self, messages: bytes) -> None:
        if not self._window and (started := find_start(messages)):
            now, ramp = time.monotonic(), self._schedule.ramp
            start = started[0] / 1e9 + ramp
            self._window = Window(start, start + self._schedule.measure, now + ramp)
            self._started.set()

    def wait_for_start(self) -> Window:
        """Wait until the ramp begins. Raises WorkloadError when hv-load failed before that."""
        self._started.wait()
        if not self._window:
            self._finish_hv_load()
        assert self._window  # hv-load that ended well has printed its start
        return self._window

    def abort(self) -> None:
        """End the generators at once."""
        for one in self._pgbenches:
            one.kill()
        script = f"read -r pid <{FOLDER}/hv-load.pid && kill -s KILL $pid"
        deadline = time.monotonic() + _ABORT_TIMEOUT
        while self._thread.ident and not self._ended and time.monotonic() < deadline:
            with contextlib.suppress(HarnessError):  # the container has ended, and all with it
                self._guest.ssh.run(["sh", "-c", script], check=False)
            self._thread.join(_ABORT_INTERVAL)
            if not self._thread.is_alive():  # nobody waits for it, but it was late
                return

    def finish(self) -> Load:
        """Wait for the end of the schedule. Raises WorkloadError when a generator failed."""
        try:
            log = self._finish_hv_load()
            cpu_share, start = log.cpu_share, log.started + self._schedule.ramp
            end = start + self._schedule.measure
            notes: dict[int, str] = {}
            counts = log.requests.loc[log.requests["good"], "target"].value_counts()
            answers = {index: int(counts.get(i, 0)) for i, index in enumerate(self._others)}
            parts = [self._renumber(in_window(log.requests, start, end))]
            del log  # it is large
            self._end_pgbenches()
            for one in self._pgbenches:
                requests = one.read(start, end)
                answers[one.index] = int(requests["good"].sum())
                parts.append(in_window(requests, start, end))
                notes[one.index] = one.note
        except BaseException:
            self.abort()
            raise
        requests = pd.concat(parts, ignore_index=True)
        return Load(requests, start, end, answers, cpu_share, notes)

    def _end_pgbenches(self) -> None:
        """SIGALRM ends them as their own timer does: handle_sig_alarm() in pgbench.c."""
        if not self._pgbenches:
            return
        until = self.wait_for_start().local_start + self._to_answers
        time.sleep(max(0.0, until - time.monotonic()))
        files = [one.pid_file for one in self._pgbenches if one.running]
        if files:
            argv = ["sh", "-c", 'kill -s ALRM $(cat "$@")', "sh", *files]
            self._guest.ssh.run(argv, check=False)  # one may end at this moment

    def _finish_hv_load(self) -> HvLoadLog:
        self._thread.join()  # the command has a timeout
        output, self._output = self._output, None
        if isinstance(output, tuple) and output[0] == 0:
            return read_hv_load(output[1], output[2], len(self._others))
        if isinstance(output, tuple):
            message = output[2].decode(errors="replace")
            errors = [line for line in message.splitlines() if not line.startswith("started ")]
            cause = "; ".join(errors)[-300:] or f"it was killed (status {output[0]})"
            hint = (
                f"look for a shortage of memory on the host, or for a full {FOLDER} in the load "
                "generator's container"
            )
        else:
            cause = output.cause if output else "it did not run"
            hint = "look at the generator's console"
        raise WorkloadError(
            f"the load generator failed: {cause}", hint=hint, stage="run", guest=self._guest.name
        ) from (output if isinstance(output, HarnessError) else None)

    def _renumber(self, requests: pd.DataFrame) -> pd.DataFrame:
        """hv-load counts only its own targets."""
        numbers = np.array(self._others, np.int32)
        target = requests["target"].to_numpy()
        return requests.assign(target=numbers[target] if len(target) else target)
