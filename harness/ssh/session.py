"""One SSH session over any byte stream: a known host key, one deadline, commands that never hang.

paramiko's Transport is used as it is (no SSHClient, no host key policy): the caller gives the one
host key that is right, and everything else is refused.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import secrets
import shlex
import socket
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
    chunks,
    drain,
    feed,
    tail_of,
    take_pid,
    text,
    with_pid,
)
from harness.ssh.credentials import load_client_key
from harness.ssh.errors import HostKeyError, SSHAuthError, SSHLate, SSHLost, SSHRefused
from harness.ssh.process import Completed, Process, Stream

__tracebackhide__ = hide_frames
# Measured against a host in software emulation: one login is 0.25 s with either cipher; GCM moves
# 17 to 21 MB/s and needs no MAC. CTR is for dropbear, which may lack GCM. paramiko has no ChaCha20.
CIPHERS = ("aes128-gcm@openssh.com", "aes128-ctr")
DIGESTS = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-256")
KEX = ("curve25519-sha256@libssh.org", "ecdh-sha2-nistp256")
WINDOW = 16 << 20  # bytes in flight a channel: megabytes of output without waiting for adjusts
KEEPALIVE = 15  # seconds

# paramiko logs tracebacks of what we raise as errors anyway: keep them off the terminal
_LOG = logging.getLogger("harness.ssh")
_LOG.addHandler(logging.NullHandler())
_LOG.propagate = False


class SSHSession:
    """One authenticated transport; commands are channels of it. Safe to use from many threads."""

    def __init__(
        self,
        open_stream: Callable[[float], Stream],
        *,
        user: str,
        keys: Sequence[paramiko.PKey],
        host_key: str,
        timeout: float,
        who: str,
        guest: str,
    ) -> None:
        self._open_stream = open_stream
        self._user = user
        self._keys = tuple(keys)
        self._key_type, key_data = host_key.split()[:2]
        self._key_bytes = base64.b64decode(key_data)
        self._timeout = timeout
        self.who = who
        self.guest = guest
        self._stream: Stream | None = None
        self._transport: paramiko.Transport | None = None

    @classmethod
    def connect(
        cls,
        open_stream: Callable[[float], Stream],
        *,
        user: str,
        client_key: Path | Sequence[paramiko.PKey],
        host_key: str,
        timeout: float,
        who: str,
        guest: str = "",
    ) -> SSHSession:
        """Open the stream, exchange keys, authenticate: all within `timeout` seconds.

        Args:
            open_stream: gives a connected stream within the seconds it is given, or OSError.
            client_key: a private key file of mode 0600, or keys already loaded.
            host_key: "ssh-ed25519 AAAA...": the only host key that is accepted.
            who: names the server in errors.
            guest: the guest's name for HarnessError.guest, if it is one.

        Raises SSHRefused, SSHLate, HostKeyError, SSHAuthError: all of them SSHError.
        """
        keys = [load_client_key(client_key)] if isinstance(client_key, Path) else client_key
        session = cls(
            open_stream,
            user=user,
            keys=keys,
            host_key=host_key,
            timeout=timeout,
            who=who,
            guest=guest,
        )
        session.reconnect()
        return session

    def reconnect(self) -> None:
        """Close what is there and connect again, within the time-out of the first connect."""
        self.close()
        deadline = Deadline(self._timeout)
        try:
            self._stream = self._open_stream(deadline.remaining())
        except TimeoutError as error:
            raise self._late("the connection", self._timeout) from error
        except OSError as error:
            raise self._refused(error.strerror or str(error)) from error
        try:
            transport = paramiko.Transport(_as_socket(self._stream), default_window_size=WINDOW)
            self._transport = transport
            self._negotiate(transport, deadline)
            self._authenticate(transport, deadline)
        except BaseException:  # also KeyboardInterrupt: no transport thread may stay behind
            self.close()
            raise
        transport.set_keepalive(KEEPALIVE)

    def _negotiate(self, transport: paramiko.Transport, deadline: Deadline) -> None:
        transport.set_log_channel(_LOG.name)
        transport.daemon = True
        options = transport.get_security_options()
        options.ciphers, options.digests, options.kex = CIPHERS, DIGESTS, KEX
        rsa = self._key_type == "ssh-rsa"
        options.key_types = ("rsa-sha2-512", "rsa-sha2-256") if rsa else (self._key_type,)
        transport.banner_timeout = transport.handshake_timeout = deadline.remaining()
        try:
            transport.start_client(timeout=deadline.remaining())
        except paramiko.ssh_exception.IncompatiblePeer as error:
            if "host key" in str(error):
                raise self._other_key("none of that type") from error
            raise self._error(SSHError, f"{self.who}: no common algorithm: {error}") from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            if deadline.over:
                raise self._late("the key exchange", self._timeout) from error
            raise self._refused(f"closed before the key exchange ended ({error})") from error
        if deadline.over:
            raise self._late("the key exchange", self._timeout)
        server = transport.get_remote_server_key()
        if server.asbytes() != self._key_bytes:
            raise self._other_key(f"{server.get_name()} {server.fingerprint}")

    def _authenticate(self, transport: paramiko.Transport, deadline: Deadline) -> None:
        for key in self._keys:
            transport.auth_timeout = deadline.remaining()
            try:
                transport.auth_publickey(self._user, key)
            except paramiko.AuthenticationException as error:
                if deadline.over:
                    raise self._late("the login", self._timeout) from error
                if not transport.is_active():
                    raise self._error(
                        SSHAuthError, f"{self.who} closed the connection during login: {error}"
                    ) from error
            except (paramiko.SSHException, EOFError, OSError) as error:
                raise self._refused(f"closed during login ({error})") from error
            else:
                return
        raise SSHAuthError(
            f"{self.who} does not accept the client key for user {self._user!r}",
            hint="put the public key into authorized_keys there; keys of the image store belong "
            "to the images built with them",
            stage="sshd",
            guest=self.guest,
        )

    @property
    def alive(self) -> bool:
        """False once the connection is known to be lost or closed."""
        return self._transport is not None and self._transport.is_active()

    def run(
        self,
        argv: Sequence[str] | str,
        *,
        timeout: float = 30.0,
        check: bool = True,
        input: bytes = b"",
    ) -> Completed:
        """Run to its end, decoding its output as UTF-8 with replacement.

        argv: a list is quoted for the shell; a string is given to the remote shell as it is.
        Raises CommandError when check and the status is not 0, SSHLate (stage "run") when late,
        SSHLost when the connection breaks meanwhile.
        """
        status, out, err = self.run_bytes(argv, timeout=timeout, input=input)
        words = (argv,) if isinstance(argv, str) else tuple(argv)
        done = Completed(words, status, out.decode(errors="replace"), err.decode(errors="replace"))
        if check and status != 0:
            raise CommandError(words, status, done.stdout, done.stderr, guest=self.guest)
        return done

    def run_bytes(
        self, argv: Sequence[str] | str, *, timeout: float = 30.0, input: bytes = b""
    ) -> tuple[int, bytes, bytes]:
        """As run(), raw: exit status, standard output, standard error; no check of the status."""
        return self._exec(argv, timeout, iter((input,) if input else ()))

    def _exec(
        self, argv: Sequence[str] | str, timeout: float, source: Iterator[bytes]
    ) -> tuple[int, bytes, bytes]:
        deadline = Deadline(timeout)
        channel = self._open(with_pid(argv), deadline)
        # its own thread: a command may print megabytes before it reads, and send() blocks
        feeder = threading.Thread(target=feed, args=(channel, source), daemon=True)
        feeder.start()
        out, err = bytearray(), bytearray()
        try:
            ended = drain(channel, out, err, deadline)
            if not ended or not channel.status_event.wait(deadline.remaining()):
                self._kill(take_pid(err))
                raise self._late(f"{text(argv)!r}", timeout, stage="run", printed=bytes(out + err))
        finally:
            channel.close()
        take_pid(err)
        if channel.exit_status == -1 and not self.alive:
            raise self._error(
                SSHLost,
                f"the connection to {self.who} was lost during {text(argv)!r}{tail_of(out + err)}",
                stage="run",
            )
        return channel.exit_status, bytes(out), bytes(err)

    def _open(self, command: str, deadline: Deadline) -> paramiko.Channel:
        transport = self._transport
        if transport is None or not transport.is_active():
            raise self._error(SSHLost, f"the connection to {self.who} is closed", stage="run")
        try:
            channel = transport.open_session(timeout=deadline.remaining())
            channel.settimeout(None)
            channel.exec_command(command.encode())
        except (paramiko.SSHException, EOFError, OSError) as error:
            if deadline.over:
                raise self._late(f"the start of {command!r}", 0, stage="run") from error
            kind = SSHError if transport.is_active() else SSHLost
            raise self._error(
                kind, f"{self.who} did not start {command!r}: {error}", stage="run"
            ) from error
        return channel

    def _kill(self, pid: int) -> None:
        """Kill what a channel started: servers do not when the channel closes."""
        if pid and self.alive:
            # OpenSSH gives each command a process group of its own, dropbear does not
            script = f"kill -s KILL -- -{pid} 2>/dev/null || kill -s KILL {pid}"
            with contextlib.suppress(SSHError), self._open(script, Deadline(5.0)) as channel:
                channel.status_event.wait(5.0)

    def popen(self, argv: Sequence[str] | str) -> Process:
        """Start a long-lived process; see Process. Its exit status is -1 when a signal ended it."""
        return ChannelProcess(self._open(with_pid(argv), Deadline(30.0)), self.who, self._kill)

    def stream(self, argv: Sequence[str] | str, timeout: float) -> Stream:
        """A process whose standard input and output are the two ways of a byte stream."""
        return self._open(text(argv), Deadline(timeout))

    def forward(self, address: str, port: int, timeout: float) -> Stream:
        """A stream to a TCP port as the server sees it. Raises SSHError when it is refused."""
        transport = self._transport
        if transport is None or not transport.is_active():
            raise self._error(SSHLost, f"the connection to {self.who} is closed", stage="run")
        try:
            return transport.open_channel(
                "direct-tcpip", (address, port), ("127.0.0.1", 0), timeout=timeout
            )
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._error(
                SSHError, f"{self.who} does not forward to {address}:{port}: {error}", stage="run"
            ) from error

    def put(
        self, data: bytes | Path, remote: str, mode: int = 0o600, timeout: float = 120.0
    ) -> None:
        """Write a remote file as a whole or not at all. Over exec: dropbear has no SFTP server."""
        if isinstance(data, Path):
            size, source = data.stat().st_size, chunks(data)
        else:
            size, source = len(data), iter((data,) if data else ())
        final = shlex.quote(remote)
        part = shlex.quote(f"{remote}.{secrets.token_hex(4)}.part")  # somebody else may put it too
        # the size is checked over there: a lost connection is an early end of file to cat
        script = (
            f"umask 077; cat >{part} && test $(wc -c <{part}) -eq {size} && "
            f"chmod {mode:o} {part} && mv -f {part} {final} || {{ rm -f {part}; exit 1; }}"
        )
        status, _out, err = self._exec(script, timeout, source)
        if status != 0:
            raise CommandError(
                ("put", remote), status, "", err.decode(errors="replace"), guest=self.guest
            )

    def get(self, remote: str, timeout: float = 120.0) -> bytes:
        """A remote file's content. Raises CommandError when it cannot be read."""
        status, out, err = self.run_bytes(["cat", "--", remote], timeout=timeout)
        if status != 0:
            raise CommandError(
                ("get", remote), status, "", err.decode(errors="replace"), guest=self.guest
            )
        return out

    def close(self) -> None:
        """End the transport, its thread and its stream. Idempotent."""
        transport, stream = self._transport, self._stream
        self._transport = self._stream = None
        if stream is not None:
            # wakes the transport's thread at once instead of at its next 0.1 s poll
            with contextlib.suppress(OSError, EOFError):
                if isinstance(stream, socket.socket):
                    stream.shutdown(socket.SHUT_RDWR)
                else:
                    stream.close()
        if transport is not None:
            transport.close()
            transport.join(2.0)
        if stream is not None:
            with contextlib.suppress(OSError, EOFError):
                stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _error(self, kind: type[SSHError], cause: str, stage: str = "sshd") -> SSHError:
        return kind(cause, stage=stage, guest=self.guest)

    def _refused(self, reason: str) -> SSHRefused:
        return SSHRefused(
            f"{self.who} does not serve SSH: {reason}",
            hint="see its console for why the SSH server does not run (or not yet)",
            stage="sshd",
            guest=self.guest,
        )

    def _late(
        self, what: str, timeout: float, stage: str = "sshd", printed: bytes = b""
    ) -> SSHLate:
        limit = f" in {timeout:g} s" if timeout else ""
        return SSHLate(
            f"{what} on {self.who} did not end{limit}" + tail_of(printed),
            hint="give it more time, or see what the machine is busy with",
            stage=stage,
            guest=self.guest,
        )

    def _other_key(self, got: str) -> HostKeyError:
        return HostKeyError(
            f"{self.who} has another host key than the known {self._key_type} one: {got}",
            hint="find out who answers there; if the key was changed on purpose, replace the "
            "known one",
            stage="sshd",
            guest=self.guest,
        )


def _as_socket(stream: Stream) -> socket.socket:
    return stream  # type: ignore[return-value]  # paramiko needs send, recv, settimeout, close
