"""Commands, processes, forwarded ports and files over one SSH connection."""

from __future__ import annotations

import contextlib
import secrets
import shlex
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import paramiko

from harness.errors import CommandError, SSHError, hide_frames
from harness.ssh.channels import (
    ChannelProcess,
    Deadline,
    drain,
    feed,
    quote_command,
    read_chunks,
    take_pid,
    with_pid,
)
from harness.ssh.connection import SSHConnection
from harness.ssh.credentials import load_client_key
from harness.ssh.errors import Server, printed
from harness.ssh.process import Completed, Process, Stream

__tracebackhide__ = hide_frames


class SSHSession:
    """An SSH connection whose commands are channels of it. Safe to use from many threads."""

    def __init__(self, connection: SSHConnection) -> None:
        self._connection = connection
        self._server = connection.server

    @classmethod
    def connect(
        cls,
        open_stream: Callable[[float], Stream],
        *,
        user: str,
        client_key: Path | Sequence[paramiko.PKey],
        host_key: str,
        timeout: float,
        server_name: str,
        guest: str = "",
    ) -> SSHSession:
        """Open the stream, exchange keys and log in, all within `timeout` seconds.

        Args:
            open_stream: returns a connected stream within a number of seconds, or raises
                OSError.
            client_key: a private key file of mode 0600, or loaded keys.
            host_key: "ssh-ed25519 AAAA...": the only host key that is accepted.
            server_name: names the server in errors.
            guest: the guest's name for HarnessError.guest; empty for a host.

        Raises SSHRefused, SSHLate, HostKeyError or SSHAuthError, each an SSHError.
        """
        keys = [load_client_key(client_key)] if isinstance(client_key, Path) else client_key
        connection = SSHConnection(
            Server(server_name, guest),
            open_stream,
            user=user,
            keys=keys,
            host_key=host_key,
            timeout=timeout,
        )
        connection.open()
        return cls(connection)

    @property
    def server_name(self) -> str:
        """The server's name in errors."""
        return self._server.name

    @property
    def alive(self) -> bool:
        """False after the connection was closed, or its loss was noticed."""
        return self._connection.alive

    def reconnect(self) -> None:
        """Close the connection and open it again, within the timeout of `connect`."""
        self._connection.open()

    def close(self) -> None:
        """End the connection and every channel of it. Idempotent."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- commands --------------------------------------------------------------------------

    def run(
        self,
        argv: Sequence[str] | str,
        *,
        timeout: float = 30.0,
        check: bool = True,
        input: bytes = b"",
    ) -> Completed:
        """Run a command to its end. Its output is decoded as UTF-8 with replacement characters.

        argv: a list is quoted for the remote shell; a string reaches the shell unchanged.
        Raises CommandError if `check` is set and the status is not 0, SSHLate (stage "run") after
        `timeout` seconds, SSHLost when the connection breaks.
        """
        status, out, err = self.run_bytes(argv, timeout=timeout, input=input)
        words = (argv,) if isinstance(argv, str) else tuple(argv)
        result = Completed(
            words, status, out.decode(errors="replace"), err.decode(errors="replace")
        )
        if check and status != 0:
            raise CommandError(
                words, status, result.stdout, result.stderr, guest=self._server.guest
            )
        return result

    def run_bytes(
        self,
        argv: Sequence[str] | str,
        *,
        timeout: float = 30.0,
        input: bytes = b"",
        on_stderr: Callable[[bytes], object] | None = None,
    ) -> tuple[int, bytes, bytes]:
        """Like run(), without decoding and without a check of the status.

        on_stderr: called with all of the standard error so far when more of it arrives; its first
        line is the process id there. Returns the exit status, the standard output and the standard
        error.
        """
        return self._exec(argv, timeout, iter((input,) if input else ()), on_stderr)

    def _exec(
        self,
        argv: Sequence[str] | str,
        timeout: float,
        source: Iterator[bytes],
        on_stderr: Callable[[bytes], object] | None = None,
    ) -> tuple[int, bytes, bytes]:
        deadline = Deadline(timeout)
        channel = self._open(with_pid(argv), deadline)
        # a separate thread: a command may print megabytes before it reads, and send() blocks
        feeder = threading.Thread(target=feed, args=(channel, source), daemon=True)
        feeder.start()
        out, err = bytearray(), bytearray()
        command = repr(quote_command(argv))
        try:
            ended = drain(channel, out, err, deadline, on_stderr)
            if not ended or not channel.status_event.wait(deadline.remaining()):
                self._kill(take_pid(err))
                output = bytes(out + err)
                raise self._server.late(command, timeout, stage="run", output=output)
        finally:
            channel.close()
        take_pid(err)
        if channel.exit_status == -1 and not self.alive:
            raise self._server.lost(
                f"the connection to {self._server.name} was lost during {command}"
                f"{printed(out + err)}",
                started=True,
            )
        return channel.exit_status, bytes(out), bytes(err)

    def _open(self, command: str, deadline: Deadline) -> paramiko.Channel:
        transport = self._connection.transport()
        try:
            channel = transport.open_session(timeout=deadline.remaining())
            channel.settimeout(None)
            channel.exec_command(command.encode())
        except (paramiko.SSHException, EOFError, OSError) as error:
            if deadline.expired:
                raise self._server.late(f"the start of {command!r}", stage="run") from error
            cause = f"{self._server.name} did not start {command!r}: {error}"
            if transport.is_active():
                raise self._server.error(SSHError, cause, stage="run") from error
            raise self._server.lost(cause, started=False) from error
        return channel

    def _kill(self, pid: int) -> None:
        """Kill a channel's command: servers do not do so when the channel closes."""
        if pid and self.alive:
            # OpenSSH starts each command in a new process group, dropbear does not
            script = f"kill -s KILL -- -{pid} 2>/dev/null || kill -s KILL {pid}"
            with (
                contextlib.suppress(SSHError),
                self._open(script, Deadline(5.0)) as channel,
            ):
                channel.status_event.wait(5.0)

    def popen(self, argv: Sequence[str] | str) -> Process:
        """Start a long-lived process. Its exit status is -1 when a signal ended it."""
        channel = self._open(with_pid(argv), Deadline(30.0))
        return ChannelProcess(channel, self._server.name, self._kill)

    # -- streams ---------------------------------------------------------------------------

    def stream(self, argv: Sequence[str] | str, timeout: float) -> Stream:
        """Start a process and return its standard input and output as one byte stream."""
        return self._open(quote_command(argv), Deadline(timeout))

    def forward(self, address: str, port: int, timeout: float) -> Stream:
        """Connect to a TCP port from the server. Raises SSHError when the server refuses."""
        transport = self._connection.transport()
        try:
            return transport.open_channel(
                "direct-tcpip", (address, port), ("127.0.0.1", 0), timeout=timeout
            )
        except (paramiko.SSHException, EOFError, OSError) as error:
            cause = f"{self._server.name} does not forward to {address}:{port}: {error}"
            raise self._server.error(SSHError, cause, stage="run") from error

    # -- files -----------------------------------------------------------------------------

    def put(
        self, data: bytes | Path, remote: str, mode: int = 0o600, timeout: float = 120.0
    ) -> None:
        """Write a remote file atomically. Raises CommandError when it cannot be written.

        The file travels over exec, since dropbear has no SFTP server.
        """
        if isinstance(data, Path):
            size, source = data.stat().st_size, read_chunks(data)
        else:
            size, source = len(data), iter((data,) if data else ())
        final = shlex.quote(remote)
        # a random name: another session may write the same file at the same time
        part = shlex.quote(f"{remote}.{secrets.token_hex(4)}.part")
        # The remote shell checks the size, since cat takes a lost connection for an end of file.
        script = (
            f"umask 077; cat >{part} && test $(wc -c <{part}) -eq {size} && "
            f"chmod {mode:o} {part} && mv -f {part} {final} || {{ rm -f {part}; exit 1; }}"
        )
        status, _out, err = self._exec(script, timeout, source)
        self._check_transfer("put", remote, status, err)

    def get(self, remote: str, timeout: float = 120.0) -> bytes:
        """Read a remote file. Raises CommandError when it cannot be read."""
        status, out, err = self.run_bytes(["cat", "--", remote], timeout=timeout)
        self._check_transfer("get", remote, status, err)
        return out

    def _check_transfer(self, direction: str, remote: str, status: int, err: bytes) -> None:
        if status != 0:
            message = err.decode(errors="replace")
            raise CommandError((direction, remote), status, "", message, guest=self._server.guest)
