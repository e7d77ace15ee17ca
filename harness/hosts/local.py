"""This machine as a host."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

from harness import scratch
from harness.errors import CommandError, HostError
from harness.hosts.base import HostFacts
from harness.hosts.facts import gather
from harness.ssh import relay
from harness.ssh.process import Completed, Process, Stream

STDERR_TAIL = 4096  # bytes, as Process.stderr_tail() promises


class LocalHost:
    """Runs everything here; see Host."""

    name = "local"
    emulated = False
    needs_replacement = False
    tainted = False

    def __init__(self, why: str = "asked for") -> None:
        self.why = why
        self._scratch: str | None = None
        self._lock = threading.Lock()
        self._processes: list[LocalProcess] = []

    @cached_property
    def facts(self) -> HostFacts:
        """See Host."""
        return gather(self.run)

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float = 30.0,
        check: bool = True,
        input: bytes = b"",
    ) -> Completed:
        """See Host."""
        process = _start(argv)
        try:
            out, err = process.communicate(input, timeout)
        except subprocess.TimeoutExpired as error:
            _kill_group(process, late=True)
            printed = (error.stdout or b"")[-2000:].decode(errors="replace").strip()
            raise HostError(
                f"{' '.join(argv)!r} did not end in {timeout:g} s"
                + (f"; it printed: {printed}" if printed else ""),
                hint="give it more time, or see what the machine is busy with",
                stage="run",
            ) from error
        finally:  # also Ctrl-C
            _kill_group(process)
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        done = Completed(
            tuple(argv),
            process.returncode,
            out.decode(errors="replace"),
            err.decode(errors="replace"),
        )
        if check and done.status != 0:
            raise CommandError(argv, done.status, done.stdout, done.stderr)
        return done

    def spawn(self, argv: Sequence[str]) -> Process:
        """See Host."""
        process = LocalProcess(_start(argv), argv[0])
        with self._lock:
            self._processes.append(process)
        return process

    def place(self, path: Path) -> str:
        """See Host: the file itself."""
        if not path.is_file():
            raise HostError(f"{path} is no file", hint="name an existing file", stage="host")
        return str(path.resolve())

    def scratch(self, mapped: int = 0) -> str:
        """See Host. Under /var/tmp: /tmp may be a tmpfs, which older kernels refuse O_DIRECT."""
        with self._lock:
            if self._scratch is None:
                self._scratch = str(scratch.make(Path("/var/tmp")))  # noqa: S108
            return self._scratch

    def connect_vsock(self, cid: int, port: int, timeout: float) -> Stream:
        """See Host."""
        stream = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        try:
            stream.settimeout(timeout)
            stream.connect((cid, port))
        except BaseException:
            stream.close()
            raise
        return stream

    def connect_tcp(
        self, address: str, port: int, timeout: float, within: Sequence[str] = ()
    ) -> Stream:
        """See Host."""
        if not within:
            return socket.create_connection((address, port), timeout)
        ours, theirs = socket.socketpair()
        target = relay.Target(relay.AF_INET, address, port, tuple(within))
        with theirs:
            process = _start(target.argv(timeout), stdin=theirs, stdout=theirs, stderr=DEVNULL)
        threading.Thread(target=process.wait, daemon=True).start()  # it ends with our stream
        relay.await_answer(ours, target, timeout, self.name)
        return ours

    def close(self) -> None:
        """End what spawn() started and remove scratch(). Idempotent."""
        with self._lock:
            processes, self._processes = self._processes, []
            folder, self._scratch = self._scratch, None
        for process in processes:
            process.kill()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


class LocalProcess:
    """A Process that is a child of ours."""

    def __init__(self, process: subprocess.Popen[bytes], what: str) -> None:
        self._process = process
        self._what = what
        self._tail = bytearray()
        self._reading = threading.Lock()
        self._drainer = threading.Thread(target=self._drain_stderr, daemon=True)
        self._drainer.start()

    @property
    def pid(self) -> int:
        """Process id on this machine."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """False once it has ended (and is reaped)."""
        return self._process.poll() is None

    def _drain_stderr(self) -> None:
        assert self._process.stderr is not None  # noqa: S101 - _start() made the pipe
        with self._process.stderr as pipe, contextlib.suppress(OSError, ValueError):
            while data := os.read(pipe.fileno(), 65536):
                self._tail += data
                del self._tail[:-STDERR_TAIL]

    def write(self, data: bytes) -> None:
        """See Process."""
        assert self._process.stdin is not None  # noqa: S101
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except (OSError, ValueError) as error:
            raise HostError(
                f"{self._what} is gone: {self.stderr_tail().strip() or error}", stage="run"
            ) from error

    def readline(self) -> bytes:
        """See Process."""
        assert self._process.stdout is not None  # noqa: S101
        with self._reading:
            if self._process.stdout.closed:  # by kill()
                return b""
            return self._process.stdout.readline()

    def close_stdin(self) -> None:
        """See Process."""
        assert self._process.stdin is not None  # noqa: S101
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def wait(self, timeout: float) -> int:
        """See Process; minus the signal's number when a signal ended it."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self._what} did not end in {timeout:g} s") from None

    def kill(self) -> None:
        """See Process."""
        _kill_group(self._process)
        self.close_stdin()
        self._drainer.join(1.0)
        # a reader has seen the end by now, unless a stray process holds the pipe
        if self._process.stdout is not None and self._reading.acquire(timeout=1.0):
            self._process.stdout.close()
            self._reading.release()

    def stderr_tail(self) -> str:
        """See Process."""
        if not self.running:
            self._drainer.join(1.0)  # its end is near, unless a stray process holds the pipe
        return bytes(self._tail).decode(errors="replace")


def _start(argv: Sequence[str], **streams: Any) -> subprocess.Popen[bytes]:
    """A child in a session of its own, so that Ctrl-C reaches us alone and we end it in order.

    streams: its standard streams, as Popen takes them; pipes where nothing is said.
    """
    streams = {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE, **streams}
    try:
        return subprocess.Popen(list(argv), start_new_session=True, **streams)
    except OSError as error:
        raise HostError(
            f"{argv[0]} cannot be started: {error.strerror}",
            hint=f"install what provides {argv[0]}",
            stage="run",
        ) from error


def _kill_group(process: subprocess.Popen[bytes], *, late: bool = False) -> None:
    """SIGKILL its whole group and reap it; when it has ended, only what it left (if late)."""
    if process.poll() is None or late:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
