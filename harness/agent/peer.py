"""A peer VMM (QEMU) under the same supervision as a guest of ours: its console comes on its
standard output, its end is told, its cost is countable, its life is bound to the supervisor's."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Callable

from harness.kvm.errors import ConfigError
from harness.vmm.config import DiskConfig, record
from harness.vmm.console import Console
from harness.vmm.devices.virtio.vhost import open_vhost

from .control import Channel
from .process import bound_to_us, stat
from .storage_daemon import StorageDaemon
from .tap import open_tap


@dataclass
class PeerConfig:
    """A peer VMM. argv: its command line; "{disk0}" in it is the descriptor of a socket to the
    first of `disks`, which qemu-storage-daemon serves. bridge: what its tap joins: "{tap}" and
    "{vhost}" are the descriptors."""

    argv: list[str]
    disks: list[DiskConfig] = field(default_factory=list)
    bridge: str = ""

    @classmethod
    def parse(cls, given: dict[str, Any]) -> PeerConfig:
        """Raises ConfigError."""
        config = record(cls, given)
        if not config.argv:
            raise ConfigError("exec needs argv, a list of strings")
        return config


class Peer:
    """A program that runs a guest; its standard output is the guest's console."""

    def __init__(self, config: PeerConfig, channel: Channel) -> None:
        """In the network of config.bridge, if there is one. Raises ConfigError."""
        self._channel = channel
        self._stopped = False
        self.costs: Callable[[], dict[str, int]] = dict
        self._console = Console(lambda at, text: channel.event("console", time_ns=at, text=text))
        self._storage = StorageDaemon(config.disks) if config.disks else None
        self._lost = ""
        fds = [one.fileno() for one in self._storage.sockets] if self._storage else []
        places = {f"{{disk{number}}}": str(fd) for number, fd in enumerate(fds)}
        if config.bridge:
            tap, vhost = open_tap(config.bridge), open_vhost("vhost-net")
            fds += tap, vhost
            places |= {"{tap}": str(tap), "{vhost}": str(vhost)}
        argv = [
            functools.reduce(lambda word, place: word.replace(*place), places.items(), word)
            for word in config.argv
        ]
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=fds,
                preexec_fn=bound_to_us(),  # noqa: PLW1509 (single-threaded here)
            )
        except OSError as error:
            raise ConfigError(f"{argv[0]}: {error.strerror}", "install it on the host") from error
        finally:
            for fd in fds:
                os.close(fd)

    def facts(self) -> dict[str, Any]:
        program = os.path.basename(str(self._process.args[0]))  # type: ignore[index]
        return {"vmm": program, "pid": self._process.pid, "sandbox": ["no new privileges"]}

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
        if self._storage:
            threading.Thread(target=self._watch, args=(self._storage,), daemon=True).start()
        for data in iter(lambda: os.read(process.stdout.fileno(), 4096), b""):  # type: ignore[union-attr]
            self._console.write(data)
            if self._console.halted:
                self._kill()
        status = process.wait()
        reader.join(1.0)
        self._console.flush_stale(0)
        reason, detail = self._explain(status, errors.decode("utf-8", "replace").strip())
        self._channel.event("end", reason=reason, detail=detail, time_ns=time.monotonic_ns())
        if self._storage:
            self._storage.close()

    def _watch(self, storage: StorageDaemon) -> None:
        """A guest whose disks are gone would wait for them for ever."""
        storage.wait()
        self._lost = storage.last_words()
        self._kill()

    def _explain(self, status: int, errors: str) -> tuple[str, str]:
        if self._stopped:
            return "stopped", ""
        panic = self._console.panic
        if panic is not None and (self._console.halted or not status):
            return "panic", panic
        if self._lost:
            return "backend-lost", self._lost
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
        self._kill()

    def _kill(self) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                # what it started holds its standard output, too: the console would not end
                os.killpg(self._process.pid, signal.SIGKILL)

    def _statistics(self) -> dict[str, int]:
        """CPU time of the program in ns (proc(5), fields 14 and 15 of stat)."""
        fields = stat(self._process.pid)
        ticks = int(fields[11]) + int(fields[12])
        return {"cpu_ns": ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK"), **self.costs()}
