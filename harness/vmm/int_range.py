"""Range checks for integers from JSON."""

from __future__ import annotations

from typing import Any


def check_int_range(name: str, value: Any, limit: int, least: int = 0) -> int:
    """An integer from `least` to limit - 1. Raises ValueError for any other value."""
    if type(value) is not int or not least <= value < limit:
        raise ValueError(f"{name} {value!r:.80} is not in {least} to {limit - 1:#x}")
    return value
