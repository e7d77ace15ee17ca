"""Errors of a virtual machine: of its configuration, of its guest, and its end."""

from __future__ import annotations

# Words of the control protocol: why a machine ended. harness.hypervisors.base.End explains them.
END_REASONS = (
    "power-off", "reset", "panic", "killed", "stopped", "out-of-memory", "vmm-error",
    "triple-fault", "debug-exit", "guest-fault", "exit-storm", "refused", "backend-lost",
    "callback-error", "lost",
)  # fmt: skip


class ConfigError(Exception):
    """The machine cannot be built from this configuration. hint: what to change."""

    def __init__(self, cause: str, hint: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.hint = hint


class GuestFault(Exception):
    """The guest did what no correct driver does, such as a malformed ring. It ends the machine."""


class MachineEnd(Exception):
    """Ends the machine. reason: one word of the control protocol."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
