"""The built-in VMM on the host's KVM."""

from __future__ import annotations

from harness.errors import hide_frames
from harness.hypervisors.base import COMMAND_LINE, Events, GuestSpec, Machine
from harness.hypervisors.supervised import SupervisedHypervisor

__tracebackhide__ = hide_frames


class KvmHypervisor(SupervisedHypervisor):
    """See harness.hypervisors.base.Hypervisor."""

    name = "kvm"

    def create(self, spec: GuestSpec, events: Events) -> Machine:
        root = {"path": self.host.place(spec.image.disk), "serial": "root", "readonly": True}
        disks = [root] + [
            {
                "path": disk.path,
                "serial": disk.serial,
                "readonly": disk.readonly,
                "direct": disk.direct,
            }
            for disk in spec.disks
        ]
        arguments = {
            "kernel": self.host.place(spec.image.kernel),
            "initramfs": self.host.place(spec.image.initramfs),
            "cmdline": f"{COMMAND_LINE} {spec.cmdline}".strip(),
            "vcpus": spec.vcpus,
            "memory": spec.memory,
            "disks": disks,
        }
        return self.supervisor.start("create", spec.name, arguments, events, spec.boot_timeout)
