"""The built-in VMM on the host's KVM."""

from __future__ import annotations

from dataclasses import asdict

from harness.errors import hide_frames
from harness.hypervisors.base import Events, GuestSpec, Machine
from harness.hypervisors.supervised import SupervisedHypervisor

__tracebackhide__ = hide_frames


class KvmHypervisor(SupervisedHypervisor):
    """See harness.hypervisors.base.Hypervisor."""

    name = "kvm"

    def create(self, spec: GuestSpec, events: Events) -> Machine:
        arguments = {
            "kernel": self.host.place(spec.image.kernel),
            "initramfs": self.host.place(spec.image.initramfs),
            "cmdline": spec.command_line,
            "vcpus": spec.vcpus,
            "memory": spec.memory,
            "disks": [asdict(disk) for disk in self.disks(spec)],
        }
        return self.supervisor.start("create", spec.name, arguments, events, spec.boot_timeout)
