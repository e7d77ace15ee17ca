"""Waiting for what other processes do: until it is so, or long enough."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psutil

TIMEOUT = 20.0


def wait_until(true: Callable[[], Any], timeout: float = TIMEOUT) -> bool:
    """Whether it comes true within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def gone(pid: int, timeout: float = TIMEOUT) -> bool:
    """Whether a process ends; one that only waits for its parent to notice has."""

    def ended() -> bool:
        try:
            return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True

    return wait_until(ended, timeout)
