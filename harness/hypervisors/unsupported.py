"""How a hypervisor refuses what it does not support."""

from __future__ import annotations

from collections.abc import Iterable

from harness.errors import ProvisionError


def refuse(guest: str, rows: Iterable[tuple[object, str, str]]) -> None:
    """Raises ProvisionError (stage "create") for the first row whose condition is true.

    rows: condition, cause, hint. guest: its name.
    """
    for condition, cause, hint in rows:
        if condition:
            raise ProvisionError(cause, hint=hint, stage="create", guest=guest)
