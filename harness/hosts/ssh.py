"""A host reached by SSH: ssh://user@name[:port]."""

from __future__ import annotations

import contextlib
import getpass
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import paramiko

from harness.errors import HostError, SSHError
from harness.hosts.base import Stream
from harness.hosts.remote import RemoteHost
from harness.ssh.credentials import load_client_key
from harness.ssh.session import SSHSession

KNOWN_HOSTS = (Path("~/.ssh/known_hosts"), Path("/etc/ssh/ssh_known_hosts"))
CLIENT_KEYS = (Path("~/.ssh/id_ed25519"), Path("~/.ssh/id_ecdsa"), Path("~/.ssh/id_rsa"))
# the order of preference when several keys of a host are known
KEY_TYPES = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa")


def parse_url(url: str) -> tuple[str, str, int]:
    """User, name and port of "ssh://[user@]name[:port]". Raises HostError when it is none."""
    try:
        parts = urlsplit(url)
        user, name, port = parts.username, parts.hostname, parts.port or 22
    except ValueError:
        name = user = None
        port = 0
    if not name or parts.scheme != "ssh" or parts.path.strip("/") or parts.password:
        raise HostError(
            f"{url!r} is no SSH host",
            hint="write it as ssh://user@name or ssh://user@name:port, without a password",
            stage="host",
        )
    return user or getpass.getuser(), name, port


def known_host_key(name: str, port: int, files: Sequence[Path] = KNOWN_HOSTS) -> str:
    """The known host key as "type base64". Raises HostError when there is none."""
    entry = name if port == 22 else f"[{name}]:{port}"
    for file in files:
        keys = paramiko.HostKeys()
        with contextlib.suppress(OSError):
            keys.load(str(file.expanduser()))
        known: Mapping[str, paramiko.PKey] = keys.lookup(entry) or {}
        for key_type in KEY_TYPES:
            if key_type in known:
                return f"{key_type} {known[key_type].get_base64()}"
    option = "" if port == 22 else f"-p {port} "
    raise HostError(
        f"the host key of {entry} is not known",
        hint=f"run `ssh-keyscan {option}{name}`, check its fingerprint with the one the machine "
        "itself shows (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then add the line to "
        "~/.ssh/known_hosts",
        stage="host",
    )


def client_keys(files: Sequence[Path] = CLIENT_KEYS) -> list[paramiko.PKey]:
    """Keys of the SSH agent, then those of ~/.ssh that need no passphrase; HostError when none."""
    keys: list[paramiko.PKey] = []
    with contextlib.suppress(paramiko.SSHException, OSError):
        keys += paramiko.Agent().get_keys()
    refused = ""
    for file in files:
        if file.expanduser().exists():
            try:
                keys.append(load_client_key(file.expanduser()))
            except SSHError as error:
                refused = f" ({error.cause}; {error.hint})"
    if not keys:
        raise HostError(
            f"there is no SSH client key{refused}",
            hint="make one with ssh-keygen -t ed25519 and put its public half into "
            "authorized_keys of the host, or start an SSH agent",
            stage="host",
        )
    return keys


class SSHHost(RemoteHost):
    """See Host. What is asked of the machine: Linux, a POSIX shell, python3 >= 3.9, /dev/kvm."""

    def __init__(
        self,
        url: str,
        *,
        why: str = "asked for",
        timeout: float = 20.0,
        known_hosts: Sequence[Path] = KNOWN_HOSTS,
        keys: Sequence[Path] = CLIENT_KEYS,
    ) -> None:
        """Connect within `timeout` seconds. Raises HostError naming cause and hint."""
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
                who=f"host {name}",
            )
        except SSHError as error:
            raise HostError(error.cause, hint=error.hint, stage="host") from error
        super().__init__(f"ssh://{user}@{name}" + (f":{port}" if port != 22 else ""), why, session)


def tcp(name: str, port: int, timeout: float) -> socket.socket:
    """A TCP connection that sends small packets at once. Raises OSError."""
    stream = socket.create_connection((name, port), timeout)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return stream
