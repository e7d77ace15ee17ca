"""The built-in VMM on the host's KVM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from harness.errors import hide_frames
from harness.hypervisors.base import Events, GuestSpec, Machine, PayloadSpec
from harness.hypervisors.capabilities import (
    SupportsClone,
    SupportsPayloads,
    SupportsVhostUserDisks,
)
from harness.hypervisors.machines import PAYLOAD_TIMEOUT, start_machine
from harness.hypervisors.supervised import SupervisedHypervisor

__tracebackhide__ = hide_frames
HOST_NAME_MAX = 64


class KvmHypervisor(SupervisedHypervisor, SupportsClone, SupportsPayloads, SupportsVhostUserDisks):
    """See Hypervisor."""

    name = "kvm"
    payload_eventfds = True
    vhost_user_disks = True

    def create(self, spec: GuestSpec, events: Events) -> Machine:
        """See Hypervisor."""
        connectivity = self.connectivity(spec)
        # the kernel would prefer a ttyS0 even if it had no port
        console = "hvc0" if spec.vmm.get("console") == "virtio" else "ttyS0"
        arguments: dict[str, Any] = {
            "kernel": self.host.place(spec.image.kernel),
            "boot": spec.boot,
            "initramfs": self.host.place(spec.image.initramfs),
            "cmdline": self.command_line(spec, connectivity, console),
            "vcpus": spec.vcpus,
            "memory": spec.memory,
            "vsock": connectivity.vsock,
            "pin": list(spec.pin),
            "sandbox": spec.sandbox,
            "disks": self.disks(spec),
            "pmem": self.host.place(spec.image.disk) if spec.root == "pmem" else "",
            "hugepages": spec.hugepages,
            "mergeable": spec.mergeable,
            "paused": bool(spec.devices),
            # The exit of each end of interrupt shortens the time in which a full code buffer does
            # harm: see CODE_BUFFER in harness/hosts/qemu.py.
            "pv_eoi": not self.host.emulated,
            **spec.vmm,
        }
        if connectivity.network != "none":
            arguments["networks"] = [connectivity.device]
        if spec.exit_limit is not None:
            arguments["exit_limit"] = spec.exit_limit
        return self.start("create", spec, arguments, connectivity, events)

    def create_payload(self, spec: PayloadSpec, events: Events) -> Machine:
        """See SupportsPayloads."""
        paths = {segment.path for segment in spec.segments}
        placed = {path: self.host.place(path) for path in paths}
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
        """See SupportsClone."""
        connectivity = self.connectivity(spec)
        identity = {"name": spec.name[:HOST_NAME_MAX]}
        config: dict[str, Any] = {"networks": []}
        if connectivity.network != "none":
            config["networks"] = [connectivity.device]
            identity |= {"mac": connectivity.mac, "ip": connectivity.configuration}
        arguments = {
            "snapshot": folder,
            "identity": identity,
            "config": config,
            "prefault_pages": list(prefault_pages),
        }
        return self.start("restore", spec, arguments, connectivity, events)
