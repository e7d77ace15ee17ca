"""Wait for a condition or the end of a process, with a timeout."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psutil

TIMEOUT = 20.0


def wait_until(
    condition: Callable[[], Any], timeout: float = TIMEOUT, interval: float = 0.005
) -> bool:
    """Whether the condition becomes true within `timeout` seconds, asked every `interval`."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)
    return True


def gone(pid: int, timeout: float = TIMEOUT) -> bool:
    """Whether a process ends. A zombie counts as ended."""

    def ended() -> bool:
        try:
            return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True

    return wait_until(ended, timeout)
