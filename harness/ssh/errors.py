"""The errors of an SSH connection, and the server that they name."""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import SSHError


class SSHRefused(SSHError):
    """No SSH server answers: the connection is refused, reset, or ends before the banner."""


class SSHLate(SSHError):
    """A step did not end by its deadline."""


class SSHLost(SSHError):
    """The connection broke. `SSHSession.reconnect` may restore it.

    Attributes:
        started: False when the server had not accepted the command yet.
    """

    started = True


class HostKeyError(SSHError):
    """The server's host key is not the known one."""


class SSHAuthError(SSHError):
    """The server does not accept the client key, or the client key cannot be read."""


@dataclass(frozen=True)
class Server:
    """The peer of an SSH connection, as errors name it.

    Args:
        name: as a sentence has it: "guest g1", "host example.org".
        guest: the guest's name for HarnessError.guest; empty for a host.
    """

    name: str
    guest: str = ""

    def error(self, kind: type[SSHError], cause: str, stage: str = "sshd") -> SSHError:
        """An error of class `kind` about this server."""
        return kind(cause, stage=stage, guest=self.guest)

    def refused(self, reason: str) -> SSHRefused:
        """The error for a connection that no SSH server answers."""
        return SSHRefused(
            f"{self.name} does not serve SSH: {reason}",
            hint="read its console to see why its SSH server does not run",
            stage="sshd",
            guest=self.guest,
        )

    def late(
        self, step: str, timeout: float = 0.0, stage: str = "sshd", output: bytes = b""
    ) -> SSHLate:
        """The error for a step that missed its deadline.

        timeout: seconds; 0 when the step has no limit. output: the text that it printed.
        """
        limit = f" in {timeout:g} s" if timeout else ""
        return SSHLate(
            f"{step} on {self.name} did not end{limit}" + printed(output),
            hint="raise the timeout, or check what keeps the machine busy",
            stage=stage,
            guest=self.guest,
        )

    def lost(self, cause: str, *, started: bool) -> SSHLost:
        """The error for a broken connection; see SSHLost."""
        error = SSHLost(cause, stage="run", guest=self.guest)
        error.started = started
        return error

    def other_key(self, known_type: str, received: str) -> HostKeyError:
        """The error for a host key that is not the known one of type `known_type`."""
        return HostKeyError(
            f"{self.name} has another host key than the known {known_type} one: {received}",
            hint="check which machine answers; replace the known key only if its owner changed it",
            stage="sshd",
            guest=self.guest,
        )


def printed(output: bytes | bytearray) -> str:
    """The end of a command's output as the last part of an error's cause; "" without output."""
    text = bytes(output[-2000:]).decode(errors="replace").strip()
    return f"; it printed: {text}" if text else ""
