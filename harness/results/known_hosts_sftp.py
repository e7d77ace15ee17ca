"""fsspec's SFTP file system with host key checking; the original accepts every host key."""

from __future__ import annotations

import contextlib
import getpass

import paramiko
from fsspec.implementations.sftp import SFTPFileSystem

from harness.errors import HostError
from harness.ssh.credentials import KNOWN_HOSTS, client_keys, known_host_key

_TIMEOUT = 20.0  # seconds, to connect and to wait for data


class KnownHostsSFTP(SFTPFileSystem):  # type: ignore[misc] # it has no types
    """Raises HostError when the host's key is not known or the host cannot be reached."""

    def _connect(self) -> None:
        name, port = self.host, int(self.ssh_kwargs.get("port") or 22)
        known_host_key(name, port)  # raises, with a hint, when the host is not known
        self.client = paramiko.SSHClient()
        for file in KNOWN_HOSTS:
            with contextlib.suppress(OSError):
                self.client.load_system_host_keys(str(file.expanduser()))
        self.client.set_missing_host_key_policy(paramiko.RejectPolicy())
        try:
            self._log_in(name, port, self.ssh_kwargs.get("username") or getpass.getuser())
            self.ftp = self.client.open_sftp()
            if (channel := self.ftp.get_channel()) is not None:
                channel.settimeout(_TIMEOUT)
        except (paramiko.SSHException, OSError) as error:
            self.client.close()
            raise HostError(f"{name}, port {port}: {error}", hint=_hint(error)) from error

    def _log_in(self, name: str, port: int, user: str) -> None:
        """Log in with the first key of the user that the host accepts."""
        refused: paramiko.AuthenticationException | None = None
        for key in client_keys():
            try:
                self.client.connect(
                    name,
                    port,
                    user,
                    pkey=key,
                    timeout=_TIMEOUT,
                    banner_timeout=_TIMEOUT,
                    auth_timeout=_TIMEOUT,
                    allow_agent=False,
                    look_for_keys=False,
                )
                return
            except paramiko.AuthenticationException as error:
                refused = error
        assert refused is not None  # noqa: S101 - client_keys raises when there are none
        raise refused


def _hint(error: Exception) -> str:
    if isinstance(error, paramiko.BadHostKeyException):
        return (
            "ask the host's administrator whether its key was changed, and only then replace the "
            "line in ~/.ssh/known_hosts: the connection may be intercepted"
        )
    if isinstance(error, paramiko.AuthenticationException):
        return "add your public key to authorized_keys on the host"
    return "check that the host can be reached"
