"""The one error tree. Every error says what broke, at which stage, in which guest, and the hint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class HarnessError(Exception):
    """Something the harness does not hide.

    Args:
        cause: one sentence: what is wrong.
        hint: one sentence: what the reader can do about it.
        stage: where in the life cycle ("image", "host", "create", "kernel", "init", "sshd",
            "ready", "run", "teardown").
        guest: the guest's name, if one is concerned.
        console: the guest's last console lines.
    """

    def __init__(
        self,
        cause: str,
        *,
        hint: str = "",
        stage: str = "",
        guest: str = "",
        console: Sequence[str] = (),
    ) -> None:
        self.cause = cause
        self.hint = hint
        self.stage = stage
        self.guest = guest
        self.console = tuple(console)
        super().__init__(cause)

    def __str__(self) -> str:
        where = ", ".join(
            f"{label} {value}"
            for label, value in (("stage", self.stage), ("guest", self.guest))
            if value
        )
        text = f"[{where}] {self.cause}" if where else self.cause
        if self.hint:
            text += f"\nhint: {self.hint}"
        if self.console:
            text += "\nlast console lines:\n" + "\n".join(f"  | {line}" for line in self.console)
        return text


def hide_frames(info: Any) -> bool:
    """For a module's __tracebackhide__: its frames do not help who reads one of these errors.

    info: pytest's ExceptionInfo. `pytest --full-trace` shows them all the same.
    """
    return isinstance(info.value, HarnessError)


class HostError(HarnessError):
    """The host cannot do what was asked: no KVM, no rights, not reachable."""


class ImageError(HarnessError):
    """An image cannot be built, is broken, or went away."""


class ProvisionError(HarnessError):
    """A guest did not come up: refused by the VMM, or late at a stage."""


class GuestEnded(HarnessError):
    """A guest came to its end while somebody still needed it (panic, VMM end, power-off)."""


class SSHError(HarnessError):
    """SSH was refused, lost, or late while the guest itself was alive."""


class CommandError(HarnessError):
    """A command ran and failed: its exit status, standard output and standard error are here."""

    def __init__(
        self, argv: Sequence[str], status: int, stdout: str, stderr: str, *, guest: str = ""
    ) -> None:
        self.argv = tuple(argv)
        self.status = status
        self.stdout = stdout
        self.stderr = stderr
        tail = (stderr or stdout).strip()[-2000:]
        super().__init__(
            f"{' '.join(argv)!r} ended with status {status}: {tail or '(no output)'}",
            stage="run",
            guest=guest,
        )


class WorkloadError(HarnessError):
    """A workload ran but what it printed cannot be used (fio's broken JSON, a missing field)."""


class ResultError(HarnessError, ValueError):
    """A sample, a run file or a store cannot be used: a wrong type, a broken file, no space."""
