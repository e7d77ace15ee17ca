"""The ways an SSH login fails, and reading the client key."""

from __future__ import annotations

import os
import stat
from functools import lru_cache
from pathlib import Path

import paramiko

from harness.errors import SSHError


class SSHRefused(SSHError):
    """Nobody serves SSH there (yet): refused, reset, or end of file before the banner."""


class SSHLate(SSHError):
    """A step was not done by its deadline."""


class SSHLost(SSHError):
    """The connection broke while a command ran; `SSHSession.reconnect` may hint it."""


class HostKeyError(SSHError):
    """The server has another host key than the one that is known."""


class SSHAuthError(SSHError):
    """The server does not accept the client key, or the client key cannot be used."""


def load_client_key(path: Path) -> paramiko.PKey:
    """Read a private key. Raises SSHAuthError when missing, readable by others, or broken.

    A file that was read before, and has not changed, is not parsed again.
    """
    try:
        now = path.stat()
        mode = now.st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise SSHAuthError(
                f"client key {path} has mode {stat.S_IMODE(mode):04o}: others could read it",
                hint=f"chmod 600 {path}",
                stage="sshd",
            )
        return _parsed(path, (_version(now), *_certificate(path)))
    except OSError as error:
        raise SSHAuthError(
            f"client key {path} cannot be read: {error.strerror}",
            hint="build the images again, or name another key",
            stage="sshd",
        ) from error
    except (paramiko.SSHException, ValueError, TypeError) as error:
        raise SSHAuthError(
            f"client key {path} is no private key without a passphrase: {error}",
            hint="use an ed25519 key without a passphrase, or an SSH agent",
            stage="sshd",
        ) from error


def _version(found: os.stat_result) -> tuple[int, ...]:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _certificate(path: Path) -> list[tuple[int, ...]]:
    """The version of what paramiko reads beside a key, if it is there."""
    try:
        return [_version(path.with_name(f"{path.name}-cert.pub").stat())]
    except OSError:
        return []


@lru_cache(maxsize=8)
def _parsed(path: Path, version: tuple[tuple[int, ...], ...]) -> paramiko.PKey:
    """To check an RSA key's numbers takes 0.2 s: as long as the rest of a login."""
    return paramiko.PKey.from_path(path)
