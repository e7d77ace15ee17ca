"""pgbench in the load generator's container: one for each database under load."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field

import pandas as pd

from harness.errors import WorkloadError
from harness.guest.guest import Guest
from harness.ssh.process import Process
from suites.consolidation.requests import read_pgbench
from suites.consolidation.target import Target

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
PROGRAM = "/usr/lib/postgresql/15/bin/pgbench"
_END_SLACK = 10.0  # seconds
_CONNECT_TIMEOUT = 60.0
_MAX_LOG = 64 << 20  # bytes
_MIN_CLIENTS, _MAX_CLIENTS = 4, 32
_PROGRESS = re.compile(rb"^progress: (\d{1,12}\.\d{1,9}) s")  # --progress-timestamp
_ABORTED = re.compile(rb"error: client \d+ .*aborted")
_PROCESSED = re.compile(rb"^number of transactions actually processed: (\d{1,12})")


@dataclass
class Messages:
    """What pgbench printed.

    error: its last error, or "". aborted: when a client gave up, s since the epoch, to a second.
    processed: its own count of transactions; None if it did not end by itself.
    """

    error: str = ""
    aborted: list[float] = field(default_factory=list)
    processed: int | None = None
    _time: float = 0.0

    def add(self, line: bytes) -> bool:
        """Add a line. Returns whether it reports progress."""
        if match := _PROGRESS.match(line):
            self._time = float(match[1])
            return True
        if match := _PROCESSED.match(line):
            self.processed = int(match[1])
        if b"error:" in line:
            self.error = ascii(line.decode(errors="replace").strip())[:200]
        if _ABORTED.search(line):
            self.aborted.append(self._time)
        return False


class Pgbench:
    """A pgbench that runs for `seconds` against one target, or until it is ended.

    Attributes:
        index: of the target. note: its last error, or "". pid_file: in the container, with its pid.
    """

    def __init__(
        self, guest: Guest, index: int, target: Target, seconds: float, drain: float, seed: int,
        folder: str,
    ) -> None:  # fmt: skip
        self.index = index
        self.note = ""
        self._guest = guest
        self._target = target
        self._folder = folder
        self._log = f"{folder}/pgbench-{index}"
        self.pid_file = f"{folder}/pid-{index}"
        self._messages = Messages()
        clients = min(max(round(2 * target.rate), _MIN_CLIENTS), _MAX_CLIENTS)
        options = {
            "rate": target.rate,
            "time": round(seconds),
            "client": clients,
            "jobs": 1,
            "log-prefix": self._log,
            "random-seed": seed + index,
        }
        # A client of a server that is gone ends in time, so that pgbench writes its log.
        give_up = round(1000 * max(drain, 1))
        connection = (
            f"host={target.address} port={target.port} user=postgres dbname=postgres "
            f"connect_timeout=10 tcp_user_timeout={give_up}"
        )
        argv = [
            *NOBODY,
            PROGRAM,
            "--no-vacuum",
            "--protocol=prepared",
            "--log",
            "--progress=1",
            "--progress-timestamp",
            *(f"--{name}={value}" for name, value in options.items()),
            connection,
        ]
        script = 'echo $$ >"$0" && exec "$@" 2>&1'
        self._process: Process = guest.ssh.popen(["sh", "-c", script, self.pid_file, *argv])

    def wait_for_start(self) -> None:
        """Wait until it has connected and runs, or has ended."""
        late = threading.Timer(_CONNECT_TIMEOUT, self._process.kill)
        late.start()
        try:
            while line := self._process.readline():
                if self._messages.add(line):
                    return
        finally:
            late.cancel()
        self.note = self._messages.error or "pgbench ended at once"

    @property
    def running(self) -> bool:
        try:
            self._process.wait(0)
        except TimeoutError:
            return True
        return False

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def read(self, start: float, end: float) -> pd.DataFrame:
        """Read what it logged, when it has been ended.

        Returns the log of the window from `start` to `end`, s since the epoch.
        Raises WorkloadError when transactions are missing in its log.
        """
        messages = self._messages
        try:
            self._process.wait(_END_SLACK)
        except TimeoutError:  # it waits for a server that is gone, and its last log lines are lost
            self._process.kill()
            self.note = "pgbench did not end in time"
        while line := self._process.readline():
            messages.add(line)
        self.note = self.note or messages.error
        # Without a log it never reached its server.
        # As nobody, since a server's answers may have changed what is in the folder.
        script = f"head -qc {_MAX_LOG} {self._log}.* 2>/dev/null"
        _, log, _ = self._guest.ssh.run_bytes([*NOBODY, "sh", "-c", script])
        logged = log.count(b"\n")
        if messages.processed is not None and logged < messages.processed:
            raise WorkloadError(  # pgbench does not check whether its log is written
                f"pgbench logged {logged} of {messages.processed} transactions of "
                f"{self._target.address}",
                hint=f"check the load generator's container: {self._folder} may be full, and a log "
                f"may have {_MAX_LOG >> 20} MiB",
                stage="run",
                guest=self._guest.name,
            )
        return read_pgbench(log, self.index, self._target.rate, start, end, messages.aborted)
