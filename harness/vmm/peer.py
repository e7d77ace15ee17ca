"""A peer VMM (QEMU) under the same supervision as a guest of ours: its console comes on its
standard output, its end is told, its cost is countable, its life is bound to the supervisor's."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
import time
from typing import Any

from .console import Console
from .control import Channel
from .errors import ConfigError

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def _prepare() -> None:
    """In the fork: die with the parent, and lead a group of its own, to be ended as a whole."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setpgid(0, 0)


class Peer:
    """A program that runs a guest: `argv`, its standard output the guest's console."""

    def __init__(self, arguments: dict[str, Any], channel: Channel) -> None:
        """Raises ConfigError when it cannot be started."""
        self._channel = channel
        self._stopped = False
        self._console = Console(lambda at, text: channel.event("console", time_ns=at, text=text))
        argv = arguments.get("argv")
        if not isinstance(argv, list) or not argv:
            raise ConfigError("exec needs argv, a list of strings")
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                preexec_fn=_prepare,  # noqa: PLW1509 (single-threaded here)
            )
        except OSError as error:
            raise ConfigError(f"{argv[0]}: {error.strerror}", "install it on the host") from error

    def facts(self) -> dict[str, Any]:
        return {"vmm": os.path.basename(str(self._process.args[0])), "pid": self._process.pid}  # type: ignore[index]

    def run(self) -> None:
        """Relay the console until the program ends; report its end."""
        process = self._process
        assert process.stdout is not None
        assert process.stderr is not None
        errors = bytearray()
        stderr = process.stderr

        def drain() -> None:
            for data in iter(lambda: os.read(stderr.fileno(), 4096), b""):
                errors.extend(data)
                del errors[:-4096]

        reader = threading.Thread(target=drain, daemon=True)
        reader.start()
        threading.Thread(target=self._serve, daemon=True).start()
        for data in iter(lambda: os.read(process.stdout.fileno(), 4096), b""):  # type: ignore[union-attr]
            for value in data:
                self._console.byte(value)
        status = process.wait()
        reader.join(1.0)
        self._console.flush_stale(0)
        reason, detail = self._explain(status, errors.decode("utf-8", "replace").strip())
        self._channel.event("end", reason=reason, detail=detail, time_ns=time.monotonic_ns())

    def _explain(self, status: int, errors: str) -> tuple[str, str]:
        if self._stopped:
            return "stopped", ""
        if self._console.panic is not None:
            return "panic", self._console.panic
        if status < 0:
            return "killed", f"signal {-status}"
        if status:
            return "vmm-error", f"status {status}: {errors}"
        return "power-off", errors

    def _serve(self) -> None:
        try:
            self._channel.serve({"stats": self._statistics, "stop": lambda: True})
        finally:
            self._stop()

    def _stop(self) -> None:
        self._stopped = True
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                # what it started holds its standard output, too: the console would not end
                os.killpg(self._process.pid, signal.SIGKILL)

    def _statistics(self) -> dict[str, int]:
        """CPU time of the program in ns (proc(5), fields 14 and 15 of stat)."""
        with open(f"/proc/{self._process.pid}/stat", encoding="ascii", errors="replace") as stat:
            fields = stat.read().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        return {"cpu_ns": ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")}
