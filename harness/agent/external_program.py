"""Runs a guest that is an external program: relays its console, counts its cost, reports its end.

Its standard output is the guest's console. It ends when the supervisor ends.
"""

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
from .overhead import OverheadCorrectedCounters
from .process import read_stat
from .qmp_relay import QmpRelay
from .storage_daemon import StorageDaemon

POWER_OFF = "power-off"
_EXIT_REASONS = {0: POWER_OFF}
# QMP's ShutdownCause: reason and detail of the end
_SHUTDOWN_CAUSES = {
    "guest-reset": ("reset", "by the guest or a triple fault, which QEMU does not distinguish"),
}

# The last line of a Linux guest (kernel/reboot.c). Its level is KERN_EMERG, which every console
# level shows. The start of the line is as in harness/vmm/console.py.
_SHUTDOWN = re.compile(
    r"(?:^|\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? )reboot: (Restarting system|Power down|System halted)"
)
_HALT_GRACE = 2.0  # seconds for a VMM to end after the kernel's last message
_INIT = "harness: init"  # shows that messages of the guest's kernel reach the console


class ShutdownMessages:
    """The end that a guest's kernel announces on the console.

    Many VMMs exit with status 0 after both power-off and reset; the console tells which it was.
    """

    def __init__(self) -> None:
        self._announced = ""
        self._has_console = False

    def read(self, line: str) -> None:
        """Read one console line."""
        if match := _SHUTDOWN.search(line):
            self._announced = match[1]
        self._has_console = self._has_console or _INIT in line

    @property
    def has_stopped(self) -> bool:
        """Whether the kernel has done its last work: it needs no more time."""
        return self._announced in ("Power down", "System halted")

    def correct(self, reason: str) -> tuple[str, str]:
        """Reason and detail of an orderly end that the VMM's exit status calls `reason`."""
        if reason != POWER_OFF or self._announced == "Power down":
            return reason, ""
        if self._announced == "Restarting system":
            return "reset", "the guest's kernel announced a restart"
        if self._announced == "System halted":
            return reason, "the guest's kernel halted"
        if self._has_console:
            return "reset", "the VMM ended, and the guest's kernel announced no power-off"
        return reason, ""


class ExternalProgram:
    """A running program.

    read_cgroup: returns counters to add to its statistics; set it before run().
    """

    def __init__(
        self,
        channel: Channel,
        process: subprocess.Popen[bytes],
        facts: Mapping[str, Any],
        *,
        storage: StorageDaemon | None = None,
        qmp: QmpRelay | None = None,
        kvm: KvmDebugfs | None = None,
        exit_reasons: Mapping[int, str] = _EXIT_REASONS,
        kill_halted: bool = False,
    ) -> None:
        """process: has pipes for its output. storage: serves its disks. qmp: the relay of its
        monitor. kvm: counters of its machine. exit_reasons: exit status to reason, for each status
        that is an orderly end. kill_halted: kill the program when its guest's kernel has halted,
        because it does not end by itself."""
        self._channel = channel
        self._process = process
        self._facts = dict(facts)
        self._storage = storage
        self._qmp = qmp
        self._exit_reasons = exit_reasons
        self._kill_halted = kill_halted
        self._stopped = False
        self.read_cgroup: Callable[[], dict[str, int]] = dict
        self._shutdown = ShutdownMessages()
        self._halt_timer: threading.Timer | None = None
        self._halted = False
        self._console = Console(self._report_line)
        self._kvm = kvm
        self._counters = OverheadCorrectedCounters(self._cgroup_counters)
        self._storage_end = ""

    def _cgroup_counters(self) -> dict[str, int]:
        return self.read_cgroup()  # which is set later

    def facts(self) -> dict[str, Any]:
        return {"pid": self._process.pid, **self._facts}

    def _report_line(self, time_ns: int, text: str) -> None:
        self._shutdown.read(text)
        self._channel.event("console", time_ns=time_ns, text=text)
        if self._kill_halted and self._shutdown.has_stopped and not self._halt_timer:
            self._halt_timer = threading.Timer(_HALT_GRACE, self._end_halted)
            self._halt_timer.daemon = True
            self._halt_timer.start()

    def _end_halted(self) -> None:
        self._halted = True
        self._kill()

    def run(self) -> None:
        """Relay the console until the program ends, then report the end."""
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
        if self._qmp:
            self._qmp.start()
        if self._storage:
            threading.Thread(target=self._await_storage, args=(self._storage,), daemon=True).start()
        for data in iter(lambda: os.read(process.stdout.fileno(), 4096), b""):  # type: ignore[union-attr]
            self._console.write(data)
            if self._console.halted:
                self._kill()
        status = process.wait()
        if self._storage and not self._storage_end and self._storage.is_ending():
            # The program noticed it before _await_storage() did.
            self._storage_end = self._storage.exit_report()
        reader.join(1.0)
        if self._qmp:
            self._qmp.finish()
        self._console.flush_stale(0)
        reason, detail = self._describe_end(status, errors.decode("utf-8", "replace").strip())
        self._channel.event("end", reason=reason, detail=detail, time_ns=time.monotonic_ns())
        if self._storage:
            self._storage.close()

    def _await_storage(self, storage: StorageDaemon) -> None:
        """Kill the program when its storage daemon ends: it would wait forever for its disks."""
        storage.wait()
        self._storage_end = storage.exit_report()
        self._kill()

    def _describe_end(self, status: int, errors: str) -> tuple[str, str]:
        """Reason and detail of the end."""
        if self._stopped:
            return "stopped", ""
        panic = self._console.panic
        if panic is not None and (self._console.halted or not status):
            return "panic", panic
        if self._storage_end:
            return "backend-lost", self._storage_end
        if self._halted and status < 0:
            return self._shutdown.correct(POWER_OFF)
        if status not in self._exit_reasons:
            killed = "killed", f"signal {-status}"
            return killed if status < 0 else ("vmm-error", f"status {status}: {errors}")
        if self._qmp:
            reason, detail = _SHUTDOWN_CAUSES.get(
                self._qmp.shutdown, (self._exit_reasons[status], "")
            )
        elif status == 0:
            reason, detail = self._shutdown.correct(self._exit_reasons[status])
        else:  # a container's init, or a VMM whose statuses are not ambiguous
            reason, detail = self._exit_reasons[status], ""
        return reason, "; ".join(filter(None, (detail, errors)))

    def _serve(self) -> None:
        operations: dict[str, Callable[..., Any]]
        operations = {"stats": self._statistics, "stop": lambda: True, "type": self._type}
        if self._qmp:
            operations["monitor"] = self._qmp.send
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
                # the whole group: its children keep the console's pipe open
                os.killpg(self._process.pid, signal.SIGKILL)

    def _type(self, text: str) -> bool:
        """Write to standard input, which most VMMs connect to the guest's serial port.

        Raises ConfigError for text that the pipe does not take at once: a guest that reads nothing
        must not block the control thread.
        """
        stdin = self._process.stdin
        if stdin is None:
            raise ConfigError("the guest has no console input", "use its SSH session")
        data = text.encode()
        if len(data) > select.PIPE_BUF:  # a pipe may take only a part of such a write
            raise ConfigError(
                f"the text has {len(data)} bytes; console input takes {select.PIPE_BUF} at once",
                "send it in parts",
            )
        os.set_blocking(stdin.fileno(), False)
        try:
            os.write(stdin.fileno(), data)
        except BlockingIOError as error:
            raise ConfigError(
                "the guest does not read its console input, which is full",
                "wait until the guest reads its console",
            ) from error
        return True

    def _statistics(self) -> dict[str, int]:
        """CPU time of the program in ns (proc(5), fields 14 and 15 of stat), and KVM's counters if
        the host shows them."""
        fields = read_stat(self._process.pid)
        ticks = int(fields[11]) + int(fields[12])
        cpu = {"cpu_ns": ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")}
        if self._kvm is None:
            return {**cpu, **self.read_cgroup()}
        return {**cpu, **self._counters.read(self._kvm.counters)}
