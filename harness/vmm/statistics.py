"""A machine's counters: KVM's, the run loops', the devices', and CPU time."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Sequence

from harness.kvm import ioctls
from harness.kvm.stats import BinaryStats
from harness.kvm.vm import Vm

from .devices.virtio.transport import Backend
from .vcpu import VcpuThread


class MachineStatistics:
    """binary_stats: KVM's own counters of the VM and each vCPU; empty before Linux 5.14."""

    def __init__(self, vm: Vm, vcpus: Sequence[VcpuThread], backends: Sequence[Backend]) -> None:
        self._vcpus = vcpus
        self._backends = backends
        self.binary_stats: list[BinaryStats] = []
        with contextlib.suppress(OSError):  # ENOTTY: a kernel before 5.14
            self.binary_stats = [BinaryStats(fd) for fd in (vm.fd, *(one.fd for one in vcpus))]

    def read(self) -> dict[str, int]:
        """All counters, summed over the VM and its vCPUs. cpu_ns: of this process."""
        totals = {"user_exits": 0}
        for stats in self.binary_stats:
            for counter, value in stats.read().items():
                totals[counter] = totals.get(counter, 0) + value
        for vcpu in self._vcpus:
            for reason, count in enumerate(vcpu.exits):
                if count:
                    key = f"user_exits_{ioctls.EXIT_NAMES.get(reason, str(reason))}"
                    totals[key] = totals.get(key, 0) + count
                    totals["user_exits"] += count
        for backend in self._backends:
            totals.update(backend.counters())
        # last: the call makes the kernel update this thread's time, which the cgroup counts, too
        usage = resource.getrusage(resource.RUSAGE_SELF)
        totals["cpu_ns"] = int((usage.ru_utime + usage.ru_stime) * 1e9)
        return totals
