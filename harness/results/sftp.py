"""fsspec's SFTP, which would trust whoever answers, made to talk to known hosts only."""

from __future__ import annotations

import contextlib
import getpass

import paramiko
from fsspec.implementations.sftp import SFTPFileSystem

from harness.errors import HostError
from harness.ssh.credentials import KNOWN_HOSTS, client_keys, known_host_key

_TIMEOUT = 20.0  # seconds for a connection, and without news from it


class KnownSFTP(SFTPFileSystem):  # type: ignore[misc] # it has no types
    """Raises HostError when the host's key is not known or the host cannot be reached."""

    def _connect(self) -> None:
        name, port = self.host, int(self.ssh_kwargs.get("port") or 22)
        known_host_key(name, port)  # the hint for a host that is not known
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
        """With the first of the user's keys that the host takes."""
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
            "somebody may be in between: ask who runs the host whether its key was changed, and "
            "only then replace the line in ~/.ssh/known_hosts"
        )
    if isinstance(error, paramiko.AuthenticationException):
        return "put the public half of your key into authorized_keys there"
    return "look whether it can be reached from here"
