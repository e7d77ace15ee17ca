"""The load generator: a container of the workload image in the guests' network.

It has CPUs and a cgroup of its own. What reads the servers' answers is confined there: hv-load
drops its rights itself, pgbench runs as nobody.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import pandas as pd
import pytest

from harness.errors import HarnessError, WorkloadError
from harness.guest.factory import GuestFactory
from harness.guest.guest import Guest
from harness.hypervisors.base import DEFAULT_ROOT
from harness.hypervisors.native import NativeHypervisor
from harness.hypervisors.supervised import SupervisedHypervisor
from harness.ssh.process import Process
from images.image import GuestImage
from suites.consolidation.requests import HvLoadLog, read_hv_load, read_pgbench

_MEMORY = 512  # MiB, of which the records are a small part
_FOLDER = "/tmp/load"  # noqa: S108 - in the container
_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
_PGBENCH = "/usr/lib/postgresql/15/bin/pgbench"
_SLACK = 30.0  # seconds beyond the schedule until a generator counts as late
_PGBENCH_SLACK = 10.0
_CONNECT_TIMEOUT = 60.0
_MAX_OFFSET = 10.0  # between the starts of pgbench and hv-load
_MAX_LOG = 64 << 20  # bytes of pgbench's log
_MIN_CLIENTS, _MAX_CLIENTS = 4, 32


@dataclass(frozen=True)
class Target:
    """One server under load. rate: requests a second. arrivals: "poisson" or "periodic"."""

    protocol: str
    address: str
    port: int
    rate: float
    arrivals: str = "poisson"


@dataclass(frozen=True)
class Schedule:
    """The phases of a load, in seconds: the rate rises, is measured, and answers may still come."""

    ramp: float
    measure: float
    drain: float

    @property
    def seconds(self) -> float:
        return self.ramp + self.measure + self.drain


@dataclass(frozen=True)
class Load:
    """A load that was run.

    requests: a log; see suites.consolidation.requests. start, end: of the measured window, s since
    the epoch. cpu_share: CPU time of hv-load, as a share of one CPU. notes: the last error of a
    target's generator, or "", by the target's index.
    """

    requests: pd.DataFrame
    start: float
    end: float
    cpu_share: float
    notes: Mapping[int, str]


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
        self.guest: Guest = containers("generator", memory=_MEMORY, cpus=list(cpus))
        self.cpus = tuple(cpus)

    def start(self, targets: Sequence[Target], schedule: Schedule, seed: int) -> LoadRun:
        """Start a load. The caller waits for its end by `LoadRun.finish()`."""
        return LoadRun(self.guest, targets, schedule, seed)

    def close(self) -> None:
        """End the container."""
        self.guest.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class LoadRun:
    """A running load: one hv-load for most targets, and a pgbench for each database."""

    def __init__(
        self, guest: Guest, targets: Sequence[Target], schedule: Schedule, seed: int
    ) -> None:
        self._guest = guest
        self._targets = targets
        self._schedule = schedule
        self._seed = seed
        self._notes: dict[int, str] = {}
        self._output: tuple[int, bytes, bytes] | HarnessError | None = None
        guest.ssh.run(f"rm -rf {_FOLDER} && mkdir -m 0777 {_FOLDER}")
        self._databases = [i for i, t in enumerate(targets) if t.protocol == "pgbench"]
        self._others = [i for i, t in enumerate(targets) if t.protocol != "pgbench"]
        self._pgbenches = {index: self._start_pgbench(index) for index in self._databases}
        connecting = time.monotonic()
        self._end = connecting + schedule.seconds + _MAX_OFFSET
        for index, process in self._pgbenches.items():
            self._notes[index] = _wait_for_progress(process)
        self._offset = time.monotonic() - connecting
        self._thread = threading.Thread(target=self._run_hv_load, name="hv-load", daemon=True)
        self._thread.start()

    def _start_pgbench(self, index: int) -> Process:
        target = self._targets[index]
        clients = min(max(round(2 * target.rate), _MIN_CLIENTS), _MAX_CLIENTS)
        options = {
            "rate": target.rate,
            # also while answers are awaited, as transactions that have not started are not logged
            # and longer, as its clock starts before hv-load's
            "time": round(self._schedule.seconds + _MAX_OFFSET),
            "client": clients,
            "jobs": 1,
            "log-prefix": f"{_FOLDER}/pgbench-{index}",
            "random-seed": self._seed + index,
        }
        words = [f"--{name}={value}" for name, value in options.items()]
        # A client of a server that is gone ends in time, so that pgbench writes its log.
        give_up = round(1000 * max(self._schedule.drain, 1))
        connection = (
            f"host={target.address} port={target.port} user=postgres dbname=postgres "
            f"connect_timeout=10 tcp_user_timeout={give_up}"
        )
        argv = [
            *_NOBODY,
            _PGBENCH,
            "--no-vacuum",
            "--protocol=prepared",
            "--log",
            "--progress=1",
            *words,
            connection,
        ]
        return self._guest.ssh.popen(["sh", "-c", 'exec "$@" 2>&1', "sh", *argv])

    def _run_hv_load(self) -> None:
        lines = []
        for index in self._others:
            target = self._targets[index]
            words = (target.protocol, target.address, target.port, target.rate, target.arrivals)
            lines.append(" ".join(map(str, words)) + "\n")
        schedule = self._schedule
        numbers = (self._seed, schedule.ramp, schedule.measure, schedule.drain)
        try:
            self._output = self._guest.ssh.run_bytes(
                ["hv-load", *map(str, numbers)],
                timeout=schedule.seconds + _SLACK,
                input="".join(lines).encode(),
            )
        except HarnessError as error:
            self._output = error

    def abort(self) -> None:
        """End the generators at once."""
        for process in self._pgbenches.values():
            process.kill()
        self._guest.ssh.run(["pkill", "-x", "hv-load"], check=False)

    def finish(self) -> Load:
        """Wait for the end of the schedule. Raises WorkloadError when a generator failed."""
        self._thread.join(self._schedule.seconds + 2 * _SLACK)
        output = self._output
        if isinstance(output, HarnessError):
            raise WorkloadError(
                f"the load generator failed: {output.cause}",
                hint="look at the generator's console",
                stage="run",
                guest=self._guest.name,
            ) from output
        if output is None or output[0]:
            message = "it does not end" if output is None else output[2].decode(errors="replace")
            raise WorkloadError(
                f"hv-load failed: {message.strip()[-300:]}",
                hint="run it by hand in a container of the workload image",
                stage="run",
                guest=self._guest.name,
            )
        log = read_hv_load(output[1], output[2])
        start = log.started + self._schedule.ramp
        end = start + self._schedule.measure
        parts = [
            self._renumber(log),
            *(self._read_pgbench(i, log.started, end) for i in self._databases),
        ]
        requests = pd.concat(parts, ignore_index=True)
        return Load(requests, start, end, log.cpu_share, self._notes)

    def _renumber(self, log: HvLoadLog) -> pd.DataFrame:
        """hv-load counts only its own targets."""
        numbers = dict(enumerate(self._others))
        return log.requests.assign(target=log.requests["target"].map(numbers))

    def _read_pgbench(self, index: int, since: float, until: float) -> pd.DataFrame:
        process = self._pgbenches[index]
        try:
            process.wait(max(0.0, self._end - time.monotonic()) + _PGBENCH_SLACK)
        except TimeoutError:  # it waits for a server that is gone, and its last log lines are lost
            process.kill()
            self._notes[index] = "pgbench did not end in time"
        # Without a log it never reached its server.
        # As nobody, since a server's answers may have changed what is in the folder.
        read = f"head -qc {_MAX_LOG} {_FOLDER}/pgbench-{index}.* 2>/dev/null"
        _, log, _ = self._guest.ssh.run_bytes([*_NOBODY, "sh", "-c", read])
        if self._offset > _MAX_OFFSET:
            self._notes[index] = f"pgbench took {self._offset:.0f} s to connect"
        self._notes[index] = self._notes[index] or _read_errors(process)[1]
        return read_pgbench(log, index, self._targets[index].rate, since, until)


def _wait_for_progress(process: Process) -> str:
    """Wait until pgbench has connected and runs. Returns its last error if it ended instead."""
    late = threading.Timer(_CONNECT_TIMEOUT, process.kill)
    late.start()
    try:
        runs, error = _read_errors(process, until=b"progress:")
    finally:
        late.cancel()
    return "" if runs else error or "pgbench ended at once"


def _read_errors(process: Process, until: bytes | None = None) -> tuple[bool, str]:
    """Read what pgbench prints, up to a line that starts with `until`, or to its end.

    Returns whether there was such a line, and the last error before it, or "".
    """
    error = ""
    while line := process.readline():
        if until and line.startswith(until):
            return True, error
        if b"error:" in line:
            error = ascii(line.decode(errors="replace").strip())[:200]
    return False, error
