"""Reads KVM's counters of another process's machine from debugfs.

Source: kvm_create_vm_debugfs() in virt/kvm/kvm_main.c. Only root can read them, on a host that has
debugfs mounted.
"""

from __future__ import annotations

import contextlib
import glob
import os

_ROOT = "/sys/kernel/debug/kvm"


class KvmDebugfs:
    """The counters of all machines of one process; the kernel sums those of vCPUs."""

    def __init__(self, pid: int, root: str = _ROOT) -> None:
        self._pattern = f"{root}/{pid}-*"

    def counters(self) -> dict[str, int]:
        """Name to value; empty if the host hides them or the machine has ended."""
        counters: dict[str, int] = {}
        for folder in glob.glob(self._pattern):
            with contextlib.suppress(OSError):
                for name in os.listdir(folder):
                    value = _number(f"{folder}/{name}")
                    if value is not None:
                        counters[name] = counters.get(name, 0) + value
        return counters


def _number(path: str) -> int | None:
    """The number in a file; None for histograms and folders."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return int(os.read(fd, 4096))
    except (OSError, ValueError):
        return None
    finally:
        os.close(fd)
