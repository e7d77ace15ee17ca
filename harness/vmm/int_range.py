"""Numbers that came as JSON."""

from __future__ import annotations

from typing import Any


def check_int_range(what: str, value: Any, limit: int, least: int = 0) -> int:
    """A whole number from `least` on and below `limit`. Raises ValueError for anything else."""
    if type(value) is not int or not least <= value < limit:
        raise ValueError(f"{what} {value!r:.80} is not in {least} to {limit - 1:#x}")
    return value
