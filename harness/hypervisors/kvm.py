"""The built-in VMM on the host's KVM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from harness.errors import hide_frames
from harness.hypervisors.base import Events, GuestSpec, Machine, PayloadSpec
from harness.hypervisors.machines import PAYLOAD_TIMEOUT, start_machine
from harness.hypervisors.supervised import SupervisedHypervisor

__tracebackhide__ = hide_frames
HOST_NAME_MAX = 64


class KvmHypervisor(SupervisedHypervisor):
    """See harness.hypervisors.base.Hypervisor."""

    name = "kvm"
    payload_eventfds = True
    vhost_user_disks = True

    def create(self, spec: GuestSpec, events: Events) -> Machine:
        access = self.connectivity(spec)
        # the kernel would prefer a ttyS0 even if it had no port
        console = "hvc0" if spec.vmm.get("console") == "virtio" else "ttyS0"
        arguments: dict[str, Any] = {
            "kernel": self.host.place(spec.image.kernel),
            "boot": spec.boot,
            "initramfs": self.host.place(spec.image.initramfs),
            "cmdline": self.command_line(spec, access, console),
            "vcpus": spec.vcpus,
            "memory": spec.memory,
            "vsock": access.vsock,
            "pin": list(spec.pin),
            "sandbox": spec.sandbox,
            "disks": self.disks(spec),
            "pmem": self.host.place(spec.image.disk) if spec.root == "pmem" else "",
            "hugepages": spec.hugepages,
            "mergeable": spec.mergeable,
            "paused": bool(spec.devices),
            # the exit ends the time in which a full code buffer does harm (harness/hosts/qemu.py)
            "pv_eoi": not self.host.emulated,
            **spec.vmm,
        }
        if access.network != "none":
            arguments["networks"] = [access.device]
        if spec.exit_limit is not None:
            arguments["exit_limit"] = spec.exit_limit
        return self.start("create", spec, arguments, access, events)

    def create_payload(self, spec: PayloadSpec, events: Events) -> Machine:
        """A machine that runs flat code: no kernel, no image, no vsock. As create()."""
        placed = {path: self.host.place(path) for path in {one.path for one in spec.segments}}
        segments = [{**asdict(one), "path": placed[one.path]} for one in spec.segments]
        arguments: dict[str, Any] = {
            "payload": segments,
            "mode": spec.mode,
            "entry": spec.entry,
            "registers": dict(spec.registers),
            "vcpus": spec.vcpus,
            "memory": spec.memory,
            "disks": [self.disk(disk) for disk in spec.disks],
            "vsock": False,
            "rng": False,
            "balloon": False,
            "paused": spec.paused or bool(spec.devices),
            "testdev": spec.testdev,
            "eventfds": [{"address": at, "vector": by} for at, by in spec.eventfds.items()],
        }
        if spec.exit_limit is not None:
            arguments["exit_limit"] = spec.exit_limit
        return start_machine(
            self.agent,
            "create",
            spec.name,
            arguments,
            events,
            timeout=PAYLOAD_TIMEOUT,
            limits=spec.limits,
        )

    def clone(
        self, folder: str, spec: GuestSpec, events: Events, prefault_pages: Sequence[int] = ()
    ) -> Machine:
        """A machine that goes on from the snapshot in a folder of the host, with an identity of
        its own: vsock and network addresses, random numbers, wall clock, host name.
        prefault_pages: from BuiltInMachine.private_dirty_pages of an earlier clone."""
        access = self.connectivity(spec)
        identity = {"name": spec.name[:HOST_NAME_MAX]}
        config: dict[str, Any] = {"networks": []}
        if access.network != "none":
            config["networks"] = [access.device]
            identity |= {"mac": access.mac, "ip": access.configuration}
        arguments = {
            "snapshot": folder,
            "identity": identity,
            "config": config,
            "prefault_pages": list(prefault_pages),
        }
        return self.start("restore", spec, arguments, access, events)
