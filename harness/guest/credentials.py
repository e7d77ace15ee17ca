"""The ways an SSH login fails, and reading the client key."""

from __future__ import annotations

import stat
from pathlib import Path

import paramiko

from harness.errors import SSHError


class SSHRefused(SSHError):
    """Nobody serves SSH there (yet): refused, reset, or end of file before the banner."""


class SSHLate(SSHError):
    """A step was not done by its deadline."""


class SSHLost(SSHError):
    """The connection broke while a command ran; `SSHSession.reconnect` may mend it."""


class HostKeyError(SSHError):
    """The server has another host key than the one that is known."""


class SSHAuthError(SSHError):
    """The server does not accept the client key, or the client key cannot be used."""


def load_client_key(path: Path) -> paramiko.PKey:
    """Read a private key. Raises SSHAuthError when missing, readable by others, or broken."""
    try:
        mode = path.stat().st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise SSHAuthError(
                f"client key {path} has mode {stat.S_IMODE(mode):04o}: others could read it",
                mend=f"chmod 600 {path}",
                stage="sshd",
            )
        return paramiko.PKey.from_path(path)
    except OSError as error:
        raise SSHAuthError(
            f"client key {path} cannot be read: {error.strerror}",
            mend="build the images again, or name another key",
            stage="sshd",
        ) from error
    except (paramiko.SSHException, ValueError, TypeError) as error:
        raise SSHAuthError(
            f"client key {path} is no private key without a passphrase: {error}",
            mend="use an ed25519 key without a passphrase, or an SSH agent",
            stage="sshd",
        ) from error
