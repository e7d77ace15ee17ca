"""A host behind an SSH session: the base class of SSHHost and EmulatedHost."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from harness.errors import CommandError, HostError, SSHError
from harness.hosts.base import HostFacts
from harness.hosts.facts import read_facts
from harness.ssh import relay
from harness.ssh.process import Completed, Process, Stream
from harness.ssh.session import SSHSession
from harness.ssh.vsock_proxy import SCRIPT, VsockProxy


class RemoteHost:
    """See Host."""

    emulated = False

    @property
    def needs_replacement(self) -> bool:
        """See Host."""
        return False

    @property
    def replacement_reason(self) -> str:
        """See Host."""
        return ""

    @property
    def tainted(self) -> bool:
        """See Host."""
        return False

    def __init__(self, name: str, reason: str, session: SSHSession) -> None:
        self.name = name
        self.reason = reason
        self._ssh = session
        self._lock = threading.RLock()
        self._placed: dict[tuple[str, int, int, bool], str] = {}
        self._processes: list[Process] = []
        self._scratch: str | None = None
        self._cache: str | None = None
        self._vsock_proxy: VsockProxy | None = None
        self._vsock_proxy_tried = False
        self._closed = False

    @property
    def alive(self) -> bool:
        """False after a loss of the connection was noticed. run() and spawn() restore it."""
        return self._ssh.alive

    @cached_property
    def facts(self) -> HostFacts:
        """See Host."""
        return read_facts(self.run, emulated=self.emulated)

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float = 30.0,
        check: bool = True,
        input: bytes = b"",
    ) -> Completed:
        """See Host."""
        try:
            return self._session().run(argv, timeout=timeout, check=check, input=input)
        except SSHError as error:
            raise self._host_error(error) from error

    def spawn(self, argv: Sequence[str]) -> Process:
        """See Host."""
        try:
            process = self._session().popen(argv)
        except SSHError as error:
            raise self._host_error(error) from error
        with self._lock:
            self._processes.append(process)
        return process

    def request_replacement(self, reason: str) -> None:
        """See Host. It does nothing."""

    def place(self, path: Path, *, regular: bool = False, executable: bool = False) -> str:
        """See Host. The copy is in the remote user's cache under its SHA-256."""
        regular = regular or executable
        try:
            stat = path.stat()
            key = (str(path), stat.st_size, stat.st_mtime_ns, regular)
            with self._lock:
                if key not in self._placed:
                    self._placed[key] = self._transfer(path, stat.st_size, regular=regular)
                return self._placed[key]
        except OSError as error:
            raise HostError(
                f"{path} cannot be read: {error.strerror}",
                hint="build the images again",
                stage="host",
            ) from error

    def _transfer(self, path: Path, size: int, *, regular: bool) -> str:
        """Make a file of `size` bytes readable on the host. Returns its path there.

        regular: see Host.place(). Here every copy is a regular file.
        """
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        remote = f"{self._cache_directory()}/{digest}"
        present = self.run(["stat", "-c", "%s", remote], check=False)
        if present.status != 0 or present.stdout.strip() != str(size):
            try:
                # executable: some placed files are programs
                self._session().put(path, remote, mode=0o700, timeout=60 + size / (1 << 20))
            except (SSHError, CommandError) as error:
                raise HostError(
                    f"{path} cannot be copied to {self.name}: {error.cause}",
                    hint=f"make sure that {size >> 20} MiB are free there",
                    stage="host",
                ) from error
        return remote

    def _cache_directory(self) -> str:
        if self._cache is None:
            base = '"${XDG_CACHE_HOME:-$HOME/.cache}"/pytest-hypervisor/placed'
            script = f'd={base}; mkdir -p "$d"; echo "$d"'
            self._cache = self.run(["sh", "-c", script]).stdout.strip()
        return self._cache

    def scratch(self, mapped: int = 0) -> str:
        """See Host. It is in /var/tmp: /tmp may be a tmpfs, without O_DIRECT in older kernels."""
        with self._lock:
            if self._scratch is None:
                created = self.run(["mktemp", "-d", "/var/tmp/harness-XXXXXXXX"])  # noqa: S108
                self._scratch = created.stdout.strip()
            return self._scratch

    def connect_vsock(self, cid: int, port: int, timeout: float) -> Stream:
        """See Host."""
        proxy = self._start_vsock_proxy()
        if proxy is not None:
            try:
                return proxy.connect(self._session(), cid, port, timeout)
            except SSHError:  # the server forbids forwarding, or the proxy was killed
                self._vsock_proxy = None
        return self._connect(relay.Target(relay.AF_VSOCK, str(cid), port), timeout)

    def connect_tcp(
        self, address: str, port: int, timeout: float, command_prefix: Sequence[str] = ()
    ) -> Stream:
        """See Host."""
        target = relay.Target(relay.AF_INET, address, port, tuple(command_prefix))
        return self._connect(target, timeout)

    def _connect(self, target: relay.Target, timeout: float) -> Stream:
        return relay.connect(self._session(), target, timeout)

    def _start_vsock_proxy(self) -> VsockProxy | None:
        """The host's proxy, started with the first connection; None when it cannot run."""
        with self._lock:
            if not self._vsock_proxy_tried:
                self._vsock_proxy_tried = True
                with contextlib.suppress(HostError):
                    argv = ["python3", "-I", "-S", "-c", SCRIPT]
                    self._vsock_proxy = VsockProxy(self.spawn(argv))
            return self._vsock_proxy

    def close(self) -> None:
        """See Host. It also ends the SSH session."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            processes, self._processes = self._processes, []
        for process in processes:
            process.kill()
        if self._scratch is not None and self._ssh.alive:
            with contextlib.suppress(SSHError):
                self._ssh.run(["rm", "-rf", "--", self._scratch], check=False)
        self._ssh.close()

    def _session(self) -> SSHSession:
        """The SSH session. A lost one is reconnected once."""
        with self._lock:
            if self._closed:
                raise HostError(
                    f"the host {self.name} is closed", hint="open the host again", stage="host"
                )
            if not self._ssh.alive:
                try:
                    self._ssh.reconnect()
                except SSHError as error:
                    raise self._host_error(error) from error
            return self._ssh

    def _host_error(self, error: SSHError) -> HostError:
        """Convert an error of the SSH session."""
        return HostError(error.cause, hint=error.hint, stage=error.stage or "host")
