"""The errors of an SSH connection, and the server that they name."""

from __future__ import annotations

from harness.errors import SSHError


class SSHRefused(SSHError):
    """No SSH server answers: the connection is refused, reset, or ends before the banner."""


class SSHLate(SSHError):
    """A step is not done by its deadline."""


class SSHLost(SSHError):
    """The connection broke while a command ran. `SSHSession.reconnect` may restore it."""


class HostKeyError(SSHError):
    """The server's host key is not the known one."""


class SSHAuthError(SSHError):
    """The server does not accept the client key, or the client key cannot be read."""
