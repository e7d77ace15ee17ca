"""What can go wrong with a virtual machine, told apart by who is to blame."""

from __future__ import annotations


class ConfigError(Exception):
    """The machine cannot be built as asked. `hint` says what to change."""

    def __init__(self, cause: str, hint: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.hint = hint


class GuestFault(Exception):
    """The guest did what no correct driver does (a malformed ring, a wild address): it ends."""


class MachineEnd(Exception):
    """The machine has come to its end; `reason` is one word of the control protocol."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
