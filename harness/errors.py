"""The tree of all errors. Every error has a cause, a hint, a stage and the guest's name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class HarnessError(Exception):
    """The base class of all errors of the harness.

    Args:
        cause: one sentence that says what is wrong.
        hint: one imperative sentence that says what to do.
        stage: the part of the life cycle: "image", "host", "create", "kernel", "init", "sshd",
            "ready", "run" or "teardown".
        guest: the name of the guest, "" without one.
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
        context = ", ".join(
            f"{label} {value}"
            for label, value in (("stage", self.stage), ("guest", self.guest))
            if value
        )
        text = f"[{context}] {self.cause}" if context else self.cause
        if self.hint:
            text += f"\nhint: {self.hint}"
        if self.console:
            text += "\nlast console lines:\n" + "\n".join(f"  | {line}" for line in self.console)
        return text


def hide_frames(info: Any) -> bool:
    """Hide a module's frames in tracebacks of these errors: the value of __tracebackhide__.

    info: pytest's ExceptionInfo. `pytest --full-trace` shows the frames.
    """
    return isinstance(info.value, HarnessError)


class HostError(HarnessError):
    """The host cannot fulfil a request: it has no KVM, denies access, or is not reachable."""


class ProcessEnded(HostError):
    """A process on the host has ended, so it does not answer a request: a VMM or the agent."""


class ImageError(HarnessError):
    """An image cannot be built, is damaged, or is missing."""


class ProvisionError(HarnessError):
    """A guest did not become ready: the VMM refused it, or a stage was late."""


class GuestEnded(HarnessError):
    """A guest ended while a test still used it: by a panic, a power-off, or its VMM's end."""


class SSHError(HarnessError):
    """SSH was refused, lost, or late while the guest was running."""


class CommandError(HarnessError):
    """A command failed. It has the exit status, standard output and standard error."""

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
    """The output of a workload cannot be used: invalid JSON of fio, or a missing field."""


class ResultError(HarnessError, ValueError):
    """A sample, a run file or a store cannot be used: wrong type, damaged file, full disk."""


class PlanError(HarnessError, ValueError):
    """The planner cannot use a trace, an inventory, a list of hosts or a plan.

    The commands of `plan` end with status 4 then.
    """
