"""KVM's counters of another process's machine, by debugfs (kvm_create_vm_debugfs() of
virt/kvm/kvm_main.c): root on a host that has debugfs mounted can read them."""

from __future__ import annotations

import contextlib
import glob
import os

_ROOT = "/sys/kernel/debug/kvm"


class KvmDebugfs:
    """The counters of all machines of one process, those of vCPUs summed by the kernel."""

    def __init__(self, pid: int, root: str = _ROOT) -> None:
        self._pattern = f"{root}/{pid}-*"

    def counters(self) -> dict[str, int]:
        """Name to value; empty where the host does not show them, or the machine is gone."""
        counters: dict[str, int] = {}
        for folder in glob.glob(self._pattern):
            with contextlib.suppress(OSError):
                for name in os.listdir(folder):
                    value = _number(f"{folder}/{name}")
                    if value is not None:
                        counters[name] = counters.get(name, 0) + value
        return counters


def _number(path: str) -> int | None:
    """The content of a file that is one number; None for histograms and folders."""
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
