"""A program that is not our VMM under the same supervision as a guest of ours: its standard output
is the guest's console, its end is told, its cost is countable, its life is bound to the
supervisor's."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from typing import Any, Callable

from harness.kvm.errors import ConfigError
from harness.vmm.console import Console

from .control import Channel
from .kvm_debugfs import KvmDebugfs
from .monitor import Monitor
from .overhead import OverheadCorrectedCounters
from .process import stat
from .storage_daemon import StorageDaemon

POWER_OFF = "power-off"
_ENDS = {0: POWER_OFF}
# by a monitor's word, where there is one: reason and detail
_SHUTDOWNS = {
    "guest-reset": ("reset", "by itself, or by a triple fault: QEMU tells the two alike"),
}

# What a Linux guest prints last (kernel/reboot.c). Its level is KERN_EMERG, so "quiet" and every
# other console level show it. The start of the line as in harness/vmm/console.py.
_SHUTDOWN = re.compile(
    r"(?:^|\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? )reboot: (Restarting system|Power down|System halted)"
)
_INIT = "harness: init"  # the guest's init, and so its kernel's messages, reach the console


class ShutdownMessages:
    """How a guest's kernel announced its end on the console.

    Many a VMM ends with status 0 for a power-off and for a reset; the console tells them apart.
    """

    def __init__(self) -> None:
        self._announced = ""
        self._has_console = False

    def read(self, line: str) -> None:
        """Take a console line."""
        if match := _SHUTDOWN.search(line):
            self._announced = match[1]
        self._has_console = self._has_console or _INIT in line

    def correct(self, reason: str) -> tuple[str, str]:
        """Reason and detail of an orderly end that the VMM's exit status calls `reason`."""
        if reason != POWER_OFF or self._announced == "Power down":
            return reason, ""
        if self._announced == "Restarting system":
            return "reset", "the guest's kernel announced a restart"
        if self._has_console:
            return "reset", "the VMM ended, and the guest's kernel announced no power-off"
        return reason, ""


class Program:
    """The running program. costs: more counters for its statistics."""

    def __init__(
        self,
        channel: Channel,
        process: subprocess.Popen[bytes],
        facts: Mapping[str, Any],
        *,
        storage: StorageDaemon | None = None,
        monitor: Monitor | None = None,
        kvm: KvmDebugfs | None = None,
        ends: Mapping[int, str] = _ENDS,
    ) -> None:
        """process: with pipes for its output. storage: serves its disks. monitor: its QMP. kvm:
        counters of its machine. ends: the statuses that are an orderly end, and what they mean."""
        self._channel = channel
        self._process = process
        self._facts = dict(facts)
        self._storage = storage
        self._monitor = monitor
        self._ends = ends
        self._stopped = False
        self.costs: Callable[[], dict[str, int]] = dict
        self._shutdown = ShutdownMessages()
        self._console = Console(self._report_line)
        self._kvm = kvm
        self._counters = OverheadCorrectedCounters(self._read_costs)
        self._lost = ""

    def _read_costs(self) -> dict[str, int]:
        return self.costs()

    def facts(self) -> dict[str, Any]:
        return {"pid": self._process.pid, **self._facts}

    def _report_line(self, time_ns: int, text: str) -> None:
        self._shutdown.read(text)
        self._channel.event("console", time_ns=time_ns, text=text)

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
        if self._monitor:
            self._monitor.start()
        if self._storage:
            threading.Thread(target=self._watch, args=(self._storage,), daemon=True).start()
        for data in iter(lambda: os.read(process.stdout.fileno(), 4096), b""):  # type: ignore[union-attr]
            self._console.write(data)
            if self._console.halted:
                self._kill()
        status = process.wait()
        reader.join(1.0)
        if self._monitor:
            self._monitor.finish()
        self._console.flush_stale(0)
        reason, detail = self._explain(status, errors.decode("utf-8", "replace").strip())
        self._channel.event("end", reason=reason, detail=detail, time_ns=time.monotonic_ns())
        if self._storage:
            self._storage.close()

    def _watch(self, storage: StorageDaemon) -> None:
        """A guest whose disks are gone would wait for them for ever."""
        storage.wait()
        self._lost = storage.exit_report()
        self._kill()

    def _explain(self, status: int, errors: str) -> tuple[str, str]:
        if self._stopped:
            return "stopped", ""
        panic = self._console.panic
        if panic is not None and (self._console.halted or not status):
            return "panic", panic
        if self._lost:
            return "backend-lost", self._lost
        if status not in self._ends:
            killed = "killed", f"signal {-status}"
            return killed if status < 0 else ("vmm-error", f"status {status}: {errors}")
        if self._monitor:
            reason, detail = _SHUTDOWNS.get(self._monitor.shutdown, (self._ends[status], ""))
        else:
            reason, detail = self._shutdown.correct(self._ends[status])
        return reason, "; ".join(filter(None, (detail, errors)))

    def _serve(self) -> None:
        operations: dict[str, Callable[..., Any]]
        operations = {"stats": self._statistics, "stop": lambda: True, "type": self._type}
        if self._monitor:
            operations["monitor"] = self._monitor.send
        try:
            self._channel.serve(operations)
        finally:
            self._stop()

    def _stop(self) -> None:
        self._stopped = True
        self._kill()

    def _kill(self) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                # what it started holds its standard output, too: the console would not end
                os.killpg(self._process.pid, signal.SIGKILL)

    def _type(self, text: str) -> bool:
        """Into its standard input, which for most VMMs is the guest's serial port."""
        stdin = self._process.stdin
        if stdin is None:
            raise ConfigError("the guest has no console input", "use its SSH session")
        os.write(stdin.fileno(), text.encode()[: select.PIPE_BUF])
        return True

    def _statistics(self) -> dict[str, int]:
        """CPU time of the program in ns (proc(5), fields 14 and 15 of stat); KVM's counters where
        the host shows them."""
        fields = stat(self._process.pid)
        ticks = int(fields[11]) + int(fields[12])
        cpu = {"cpu_ns": ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")}
        if self._kvm is None:
            return {**cpu, **self.costs()}
        return {**cpu, **self._counters.during(self._kvm.counters)}
