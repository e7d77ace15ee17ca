"""A host that is reached by SSH: ssh://user@name[:port]."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from harness.errors import HostError, SSHError
from harness.hosts.remote import RemoteHost
from harness.ssh.credentials import CLIENT_KEYS, KNOWN_HOSTS, client_keys, known_host_key
from harness.ssh.process import Stream
from harness.ssh.session import SSHSession


def parse_url(url: str) -> tuple[str, str, int]:
    """Parse "ssh://[user@]name[:port]". Returns user, name and port. Raises HostError."""
    try:
        parts = urlsplit(url)
        user, name, port = parts.username, parts.hostname, parts.port or 22
    except ValueError:
        name = user = None
        port = 0
    if not name or parts.scheme != "ssh" or parts.path.strip("/") or parts.password:
        raise HostError(
            f"{url!r} is not an SSH host",
            hint="write it as ssh://user@name or ssh://user@name:port, without a password",
            stage="host",
        )
    return user or getpass.getuser(), name, port


class SSHHost(RemoteHost):
    """See Host. The machine needs Linux, a POSIX shell, python3 >= 3.9 and /dev/kvm."""

    def __init__(
        self,
        url: str,
        *,
        reason: str = "requested",
        timeout: float = 20.0,
        known_hosts: Sequence[Path] = KNOWN_HOSTS,
        keys: Sequence[Path] = CLIENT_KEYS,
    ) -> None:
        """Connect within `timeout` seconds. Raises HostError. reason: see Host."""
        user, name, port = parse_url(url)

        def open_stream(remaining: float) -> Stream:
            return tcp(name, port, remaining)

        try:
            session = SSHSession.connect(
                open_stream,
                user=user,
                client_key=client_keys(keys),
                host_key=known_host_key(name, port, known_hosts),
                timeout=timeout,
                server_name=f"host {name}",
            )
        except SSHError as error:
            raise HostError(error.cause, hint=error.hint, stage="host") from error
        super().__init__(
            f"ssh://{user}@{name}" + (f":{port}" if port != 22 else ""), reason, session
        )


def tcp(name: str, port: int, timeout: float) -> socket.socket:
    """Open a TCP connection without Nagle's delay for small packets. Raises OSError."""
    stream = socket.create_connection((name, port), timeout)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return stream
