"""This machine as a host."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

from harness import scratch
from harness.errors import CommandError, HostError, ProcessEnded
from harness.hosts.base import HostFacts
from harness.hosts.facts import read_facts
from harness.ssh import relay
from harness.ssh.errors import printed
from harness.ssh.process import Completed, Process, Stream

STDERR_TAIL = 4096  # bytes; see Process.stderr_tail()


class LocalHost:
    """See Host."""

    name = "local"
    emulated = False
    needs_replacement = False
    replacement_reason = ""
    tainted = False

    def __init__(self, reason: str = "requested") -> None:
        self.reason = reason
        self._scratch: str | None = None
        self._lock = threading.Lock()
        self._processes: list[LocalProcess] = []

    @cached_property
    def facts(self) -> HostFacts:
        """See Host."""
        return read_facts(self.run)

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
            _kill_group(process, include_ended=True)
            output = printed(error.stdout or b"")
            raise HostError(
                f"{' '.join(argv)!r} did not end in {timeout:g} s{output}",
                hint="raise the timeout, or check what keeps the machine busy",
                stage="run",
            ) from error
        finally:  # also after KeyboardInterrupt
            _kill_group(process)
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        result = Completed(
            tuple(argv),
            process.returncode,
            out.decode(errors="replace"),
            err.decode(errors="replace"),
        )
        if check and result.status != 0:
            raise CommandError(argv, result.status, result.stdout, result.stderr)
        return result

    def spawn(self, argv: Sequence[str]) -> Process:
        """See Host."""
        process = LocalProcess(_start(argv), argv[0])
        with self._lock:
            self._processes.append(process)
        return process

    def request_replacement(self, reason: str) -> None:
        """See Host. It does nothing."""

    def place(self, path: Path, *, regular: bool = False, executable: bool = False) -> str:
        """See Host. Returns the path of the file itself, or of an executable copy."""
        if not path.is_file():
            raise HostError(f"{path} is not a file", hint="name an existing file", stage="host")
        if not executable or os.access(path, os.X_OK):
            return str(path.resolve())
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        copy = Path(self.scratch()) / f"{digest}-{path.name}"
        if not copy.exists():
            _copy_executable(path, copy)
        return str(copy)

    def scratch(self, mapped: int = 0) -> str:
        """See Host. It is in /var/tmp: /tmp may be a tmpfs, without O_DIRECT in older kernels."""
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
        self, address: str, port: int, timeout: float, command_prefix: Sequence[str] = ()
    ) -> Stream:
        """See Host."""
        if not command_prefix:
            return socket.create_connection((address, port), timeout)
        our_end, peer_end = socket.socketpair()
        target = relay.Target(relay.AF_INET, address, port, tuple(command_prefix))
        with peer_end:
            process = _start(target.argv(timeout), stdin=peer_end, stdout=peer_end, stderr=DEVNULL)
        threading.Thread(target=process.wait, daemon=True).start()  # it ends with the stream
        relay.await_answer(our_end, target, timeout, self.name)
        return our_end

    def close(self) -> None:
        """See Host."""
        with self._lock:
            processes, self._processes = self._processes, []
            folder, self._scratch = self._scratch, None
        for process in processes:
            process.kill()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


class LocalProcess:
    """A Process that is a child of this process."""

    def __init__(self, process: subprocess.Popen[bytes], program: str) -> None:
        self._process = process
        self._program = program
        self._tail = bytearray()
        self._read_lock = threading.Lock()
        self._drainer = threading.Thread(target=self._drain_stderr, daemon=True)
        self._drainer.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """False once the process has ended; it is then reaped."""
        return self._process.poll() is None

    def _drain_stderr(self) -> None:
        assert self._process.stderr is not None  # noqa: S101 - _start() creates the pipe
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
            raise ProcessEnded(
                f"{self._program} is gone: {self.stderr_tail().strip() or error}", stage="run"
            ) from error

    def readline(self) -> bytes:
        """See Process."""
        assert self._process.stdout is not None  # noqa: S101
        with self._read_lock:
            if self._process.stdout.closed:  # closed by kill()
                return b""
            return self._process.stdout.readline()

    def close_stdin(self) -> None:
        """See Process."""
        assert self._process.stdin is not None  # noqa: S101
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def wait(self, timeout: float) -> int:
        """See Process. After a signal the status is minus its number."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self._program} did not end in {timeout:g} s") from None

    def kill(self) -> None:
        """See Process."""
        _kill_group(self._process)
        self.close_stdin()
        self._drainer.join(1.0)
        # a blocked reader returns first, unless another process still holds the pipe
        if self._process.stdout is not None and self._read_lock.acquire(timeout=1.0):
            self._process.stdout.close()
            self._read_lock.release()

    def stderr_tail(self) -> str:
        """See Process."""
        if not self.running:
            # the thread ends soon, unless another process still holds the pipe
            self._drainer.join(1.0)
        return bytes(self._tail).decode(errors="replace")


def _copy_executable(path: Path, copy: Path) -> None:
    """Make an executable copy. It is complete when it has its name. Raises HostError."""
    try:
        descriptor, name = tempfile.mkstemp(dir=copy.parent)
        partial = Path(name)
        try:
            with path.open("rb") as source, os.fdopen(descriptor, "wb") as file:
                shutil.copyfileobj(source, file)
            partial.chmod(0o700)
            partial.rename(copy)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise HostError(
            f"an executable copy of {path} cannot be made in {copy.parent}: {error.strerror}",
            hint="free space there, and check that the file is readable",
            stage="host",
        ) from error


def _start(argv: Sequence[str], **streams: Any) -> subprocess.Popen[bytes]:
    """Start a child in a new session, so that Ctrl-C does not reach it.

    streams: its standard streams, as for Popen. The default is a pipe for each.
    """
    streams = {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE, **streams}
    try:
        return subprocess.Popen(list(argv), start_new_session=True, **streams)
    except OSError as error:
        raise HostError(
            f"{argv[0]} cannot be started: {error.strerror}",
            hint=f"install the package that contains {argv[0]}",
            stage="run",
        ) from error


def _kill_group(process: subprocess.Popen[bytes], *, include_ended: bool = False) -> None:
    """Kill a running process with its process group, and reap it.

    include_ended: kill the group of an ended process as well, since its children may run.
    """
    if process.poll() is None or include_ended:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
