"""Keys of an SSH login: the known host key and the user's client keys."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import paramiko

from harness.errors import HostError, SSHError
from harness.ssh.errors import SSHAuthError

KNOWN_HOSTS = (Path("~/.ssh/known_hosts"), Path("/etc/ssh/ssh_known_hosts"))
CLIENT_KEYS = (Path("~/.ssh/id_ed25519"), Path("~/.ssh/id_ecdsa"), Path("~/.ssh/id_rsa"))
# in order of preference, for hosts with several known keys
KEY_TYPES = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa")


def load_client_key(path: Path) -> paramiko.PKey:
    """Read a private key file. An unchanged file is parsed only once.

    Raises SSHAuthError when the file is missing, broken, or accessible by other users.
    """
    try:
        status = path.stat()
        mode = status.st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise SSHAuthError(
                f"client key {path} has mode {stat.S_IMODE(mode):04o}: other users have access",
                hint=f"run chmod 600 {path}",
                stage="sshd",
            )
        return _parsed(path, (_version(status), *_certificate(path)))
    except OSError as error:
        raise SSHAuthError(
            f"client key {path} cannot be read: {error.strerror}",
            hint="build the images again, or name another key file",
            stage="sshd",
        ) from error
    except (paramiko.SSHException, ValueError, TypeError) as error:
        raise SSHAuthError(
            f"client key {path} is not a private key without a passphrase: {error}",
            hint="use an ed25519 key without a passphrase, or start an SSH agent",
            stage="sshd",
        ) from error


def _version(status: os.stat_result) -> tuple[int, ...]:
    """Fields that change whenever a file changes."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _certificate(path: Path) -> list[tuple[int, ...]]:
    """The version of the certificate that paramiko reads with a key; empty without one."""
    try:
        return [_version(path.with_name(f"{path.name}-cert.pub").stat())]
    except OSError:
        return []


@lru_cache(maxsize=8)
def _parsed(path: Path, version: tuple[tuple[int, ...], ...]) -> paramiko.PKey:
    """Cached: the check of an RSA key takes 0.2 s, as long as the rest of a login."""
    return paramiko.PKey.from_path(path)


def known_host_key(name: str, port: int, files: Sequence[Path] = KNOWN_HOSTS) -> str:
    """Look up a host key as "type base64". Raises HostError when none is known."""
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
        hint=f"run `ssh-keyscan {option}{name}`, compare the fingerprint with that on the machine "
        "(ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then add the line to "
        "~/.ssh/known_hosts",
        stage="host",
    )


def client_keys(files: Sequence[Path] = CLIENT_KEYS) -> list[paramiko.PKey]:
    """The SSH agent's keys, then those of `files` without a passphrase.

    Raises HostError when there are none.
    """
    keys: list[paramiko.PKey] = []
    with contextlib.suppress(paramiko.SSHException, OSError):
        keys += paramiko.Agent().get_keys()
    problem = ""
    for file in files:
        if file.expanduser().exists():
            try:
                keys.append(load_client_key(file.expanduser()))
            except SSHError as error:
                problem = f" ({error.cause}; {error.hint})"
    if not keys:
        raise HostError(
            f"there is no SSH client key{problem}",
            hint="create a key with ssh-keygen -t ed25519 and add its public half to "
            "authorized_keys on the host, or start an SSH agent",
            stage="host",
        )
    return keys
