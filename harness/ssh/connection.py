"""One SSH connection: the byte stream, the key exchange and the login, within one deadline.

The connection uses paramiko's Transport without SSHClient: SSHClient's host key policies accept
unknown keys. Here the caller names the one host key to accept.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import socket
from collections.abc import Callable, Sequence

import paramiko

from harness.errors import SSHError, hide_frames
from harness.ssh.channels import Deadline
from harness.ssh.errors import Server, SSHAuthError
from harness.ssh.process import Stream

__tracebackhide__ = hide_frames
# Measured against a host in software emulation: a login takes 0.25 s with either cipher. GCM moves
# 17 to 21 MB/s and needs no MAC. CTR is for dropbear without GCM. paramiko has no ChaCha20.
CIPHERS = ("aes128-gcm@openssh.com", "aes128-ctr")
DIGESTS = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-256")
KEX = ("curve25519-sha256@libssh.org", "ecdh-sha2-nistp256")
WINDOW = 16 << 20  # bytes in flight per channel: large outputs do not wait for window adjustments
KEEPALIVE = 15  # seconds

# paramiko logs tracebacks of errors that are raised here as well; keep them off the terminal
_LOG = logging.getLogger("harness.ssh")
_LOG.addHandler(logging.NullHandler())
_LOG.propagate = False


class SSHConnection:
    """An authenticated transport that can be opened again after it was lost.

    Args:
        server: the peer, for errors.
        open_stream: returns a connected stream within a number of seconds, or raises
            OSError.
        user, keys: the login; the keys are tried in order.
        host_key: "ssh-ed25519 AAAA...": the only host key that is accepted.
        timeout: seconds for one call of `open`.
    """

    def __init__(
        self,
        server: Server,
        open_stream: Callable[[float], Stream],
        *,
        user: str,
        keys: Sequence[paramiko.PKey],
        host_key: str,
        timeout: float,
    ) -> None:
        self.server = server
        self._open_stream = open_stream
        self._user = user
        self._keys = tuple(keys)
        self._key_type, key_data = host_key.split()[:2]
        self._key_bytes = base64.b64decode(key_data)
        self._timeout = timeout
        self._stream: Stream | None = None
        self._transport: paramiko.Transport | None = None

    @property
    def alive(self) -> bool:
        """False after the connection was closed, or its loss was noticed."""
        return self._transport is not None and self._transport.is_active()

    def transport(self) -> paramiko.Transport:
        """The open transport. Raises SSHLost when there is none."""
        transport = self._transport
        if transport is None or not transport.is_active():
            name = self.server.name
            raise self.server.lost(f"the connection to {name} is closed", started=False)
        return transport

    def open(self) -> None:
        """Close an earlier transport, then connect and log in.

        Raises SSHRefused, SSHLate, HostKeyError or SSHAuthError.
        """
        self.close()
        deadline = Deadline(self._timeout)
        try:
            self._stream = self._open_stream(deadline.remaining())
        except TimeoutError:
            raise self.server.late("the connection", self._timeout) from None
        except OSError as error:
            raise self.server.refused(error.strerror or str(error)) from error
        try:
            transport = paramiko.Transport(_as_socket(self._stream), default_window_size=WINDOW)
            self._transport = transport
            self._negotiate(transport, deadline)
            self._authenticate(transport, deadline)
        except BaseException:  # also KeyboardInterrupt: the transport's thread must end
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
        server = self.server
        try:
            transport.start_client(timeout=deadline.remaining())
        except paramiko.ssh_exception.IncompatiblePeer as error:
            if "host key" in str(error):
                raise server.other_key(self._key_type, "none of that type") from error
            raise server.error(SSHError, f"{server.name}: no common algorithm: {error}") from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            if deadline.expired:
                raise server.late("the key exchange", self._timeout) from None
            raise server.refused(f"closed before the key exchange ended ({error})") from error
        if deadline.expired:
            raise server.late("the key exchange", self._timeout)
        key = transport.get_remote_server_key()
        if key.asbytes() != self._key_bytes:
            raise server.other_key(self._key_type, f"{key.get_name()} {key.fingerprint}")

    def _authenticate(self, transport: paramiko.Transport, deadline: Deadline) -> None:
        server = self.server
        for key in self._keys:
            transport.auth_timeout = deadline.remaining()
            try:
                transport.auth_publickey(self._user, key)
            except paramiko.AuthenticationException as error:
                if deadline.expired:
                    raise server.late("the login", self._timeout) from None
                if not transport.is_active():
                    raise server.error(
                        SSHAuthError, f"{server.name} closed the connection during login: {error}"
                    ) from error
            except (paramiko.SSHException, EOFError, OSError) as error:
                raise server.refused(f"closed during login ({error})") from error
            else:
                return
        raise SSHAuthError(
            f"{server.name} does not accept the client key for user {self._user!r}",
            hint="add the public key to authorized_keys there; an image accepts only the key "
            "that it was built with",
            stage="sshd",
            guest=server.guest,
        )

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


def _as_socket(stream: Stream) -> socket.socket:
    return stream  # type: ignore[return-value]  # paramiko calls send, recv, settimeout, close
