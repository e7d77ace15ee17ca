"""QEMU with KVM, under the same supervisor: the peer to measure beside."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from harness.errors import HostError, ProvisionError
from harness.hosts.base import Host
from harness.hypervisors.base import Events, GuestSpec, Machine, PayloadSpec
from harness.hypervisors.machines import PAYLOAD_TIMEOUT, start_machine
from harness.hypervisors.payload_file import parse_elf
from harness.hypervisors.supervised import SupervisedHypervisor

PROGRAM = "qemu-system-x86_64"
# the built-in VMM's machine has them, too
_RNG_AND_BALLOON = (
    *("-object", "rng-random,id=random,filename=/dev/urandom"),
    *("-device", "virtio-rng-pci,rng=random,disable-legacy=on"),
    *("-device", "virtio-balloon-pci,free-page-reporting=on,disable-legacy=on"),
)


class QemuHypervisor(SupervisedHypervisor):
    """See harness.hypervisors.base.Hypervisor."""

    name = "qemu"
    payload_eventfds = False
    vhost_user_disks = True
    # of microvm, the fewest devices with which it finds PCI, virtio and a console; and the clock
    # that its ACPI tables do not deny: a PC's kernel waits for seconds when there is none
    machine = "microvm,acpi=on,pcie=on,rtc=on,isa-serial=on"

    def __init__(self, host: Host, progress: Callable[[str], None]) -> None:
        if host.run(["sh", "-c", f"command -v {PROGRAM}"], check=False).status:
            raise HostError(
                f"there is no {PROGRAM} on {host.name}",
                hint="install qemu-system-x86 there",
                stage="host",
            )
        super().__init__(host, progress)
        self._regular: dict[str, str] = {}

    def _backend(self, spec: GuestSpec) -> str:
        """Its memory: in a file of the agent's where a daemon is to map it, and on an emulated host
        (see harness/agent/memory_quarantine.py), but for KSM, which merges private memory alone.
        QEMU would put a file of its own where no huge page fits."""
        size = f"id=memory,size={spec.memory}M"
        if spec.hugepages:
            return f"memory-backend-memfd,{size},share=on,hugetlb=on,hugetlbsize=2M"
        mapped = any(disk.backend == "vhost-user" for disk in spec.disks)
        if spec.mergeable or not (mapped or self.host.emulated):
            return f"memory-backend-ram,{size}"
        path = "/proc/self/fd/{memory}"
        return f"memory-backend-file,{size},mem-path={path},align=2M,share=on"

    def _file(self, placed: str, size: int) -> str:
        """QEMU wants a regular file of the true length for kernel and initramfs; a large file
        placed on the emulated host is a padded block device."""
        if placed.startswith("/dev/") and placed not in self._regular:
            copy = f"{self.host.scratch()}/{PurePosixPath(placed).name}.{size}"
            with_size = f"iflag=count_bytes,fullblock count={size}".split()
            self.host.run(
                ["dd", f"if={placed}", f"of={copy}", "bs=1M", "status=none", *with_size],
                timeout=60,
            )
            self._regular[placed] = copy
        return self._regular.get(placed, placed)

    def _argv(self, spec: GuestSpec | PayloadSpec, options: str = "") -> list[str]:
        """What its machines have in common. options: of -machine, each after a comma."""
        return [
            *(PROGRAM, "-machine", self.machine + options, "-accel", "kvm"),
            # with all that the host's has, as the built-in VMM; pv-eoi: see kvm.py
            *("-cpu", f"host,migratable=off{',kvm-pv-eoi=off' * self.host.emulated}"),
            *("-smp", str(spec.vcpus), "-m", str(spec.memory), "-no-reboot"),
            *("-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"),
            *("-chardev", "socket,id=monitor,fd={monitor}", "-mon", "chardev=monitor,mode=control"),
        ]

    def create_payload(self, spec: PayloadSpec, events: Events) -> Machine:
        """A machine that runs an ELF with a PVH entry, which is how QEMU starts one that is not
        Linux: in protected mode, at that entry. As create()."""
        _refuse_payload(spec)
        (path,) = {segment.path for segment in spec.segments}
        argv = [*self._argv(spec), "-kernel", self.host.place(path)]
        machine = start_machine(
            self.agent,
            "exec",
            spec.name,
            {"argv": argv},
            events,
            timeout=PAYLOAD_TIMEOUT,
            limits=spec.limits,
        )
        machine.facts = {**machine.facts, "cid": 0}
        return machine

    def create(self, spec: GuestSpec, events: Events) -> Machine:
        _refuse(spec)
        if spec.root == "pmem":  # microvm has no room for persistent memory
            spec = replace(spec, root="disk")
        image = spec.image
        kernel = self._file(self.host.place(image.kernel), image.kernel.stat().st_size)
        initramfs = self._file(self.host.place(image.initramfs), image.initramfs.stat().st_size)
        access = self.connectivity(spec)
        cid = random.SystemRandom().randint(3, 0xFFFF_FFFE) if access.vsock else 0
        argv = [
            *self._argv(spec, f",{_memory(spec)}"),
            *("-kernel", kernel, "-initrd", initramfs),
            *("-append", self.command_line(spec, access)),
            *("-object", self._backend(spec)),
            *_RNG_AND_BALLOON,
        ]
        if cid:
            argv += ["-device", f"vhost-vsock-pci,guest-cid={cid}"]
        served: list[dict[str, Any]] = []
        for number, disk in enumerate(self.disks(spec)):
            if disk["backend"] == "vhost-user":
                argv += _vhost_user(number, len(served))
                served.append(disk)
            else:
                argv += _disk(number, disk)
        arguments: dict[str, Any] = {"argv": argv, "disks": served}
        if access.network == "bridge":
            argv += _network(access.mac)
            arguments["bridge"] = access.bridge
        machine = self.start("exec", spec, arguments, access, events)
        machine.facts = {**machine.facts, "cid": cid}
        return machine


class Q35Hypervisor(QemuHypervisor):
    """As a PC of today: with firmware, and the devices that one has."""

    name = "qemu-q35"
    machine = "q35"


def _refuse(spec: GuestSpec) -> None:
    """Raises ProvisionError for what only the built-in VMM gives."""
    for asked, cause, way in (
        (spec.vmm, f"vmm={dict(spec.vmm)} is for the built-in VMM", "leave it out"),
        (
            spec.boot == "linux64",
            "QEMU enters a kernel by PVH, or by its own firmware",
            "leave --guest-boot out",
        ),
        (spec.exit_limit, "QEMU's guests have no exit_limit", "leave it out"),
        (
            spec.pin,
            "QEMU's vCPUs cannot be pinned one by one",
            "give cpus=, which holds for all its threads",
        ),
        (spec.network == "passt", "guests of qemu have no passt here", "use network=bridge"),
    ):
        if asked:
            hint = f"{way}, or take --hypervisor=kvm"
            raise ProvisionError(cause, hint=hint, stage="create", guest=spec.name)


def _refuse_payload(spec: PayloadSpec) -> None:
    """Raises ProvisionError for what only the built-in VMM gives a payload."""
    file = spec.segments[0].path
    one, out = 'give one such file, with mode="protected"', "leave it out"
    several = any(segment.path != file for segment in spec.segments)
    for asked, what, way in (
        (several, "a payload of several files", one),
        (spec.mode != "protected", f"a payload in {spec.mode} mode", one),
        (spec.registers, "registers of a payload", out),
        (spec.devices or spec.disks or spec.testdev, "a payload's devices or disks", out),
        (spec.eventfds, "a payload's eventfds", out),
        (spec.paused, "a payload that waits", "have it start at once"),
        (spec.exit_limit, "an exit_limit", out),
    ):
        if asked:
            raise _for_ours(spec, what, way)
    if spec.entry != parse_elf(file.read_bytes()).entry:
        raise _for_ours(spec, "an entry that is not the file's own", out)


def _for_ours(spec: PayloadSpec, what: str, way: str) -> ProvisionError:
    return ProvisionError(
        f"{what} is for the built-in VMM: QEMU starts an ELF by its PVH entry",
        hint=f"{way}, or take --hypervisor=kvm",
        stage="create",
        guest=spec.name,
    )


def _network(mac: str) -> list[str]:
    """The agent puts the descriptors' numbers in."""
    return [
        "-netdev",
        "tap,id=net,fd={tap},vhost=on,vhostfd={vhost}",
        "-device",
        f"virtio-net-pci,netdev=net,mac={mac},disable-legacy=on,romfile=",
    ]


def _memory(spec: GuestSpec) -> str:
    return f"memory-backend=memory,mem-merge={'on' if spec.mergeable else 'off'}"


def _vhost_user(number: int, served: int) -> list[str]:
    """A disk that the agent has a qemu-storage-daemon serve, and connects."""
    return [
        *("-chardev", f"socket,id=disk{number},fd={{disk{served}}}"),
        *("-device", f"vhost-user-blk-pci,chardev=disk{number},num-queues=1"),
    ]


def _disk(number: int, disk: dict[str, Any]) -> list[str]:
    # a comma in a file name would start another option: QEMU's escape is to double it
    path = disk["path"].replace(",", ",,")
    snapshot = "on" if disk["overlay"] else "off"
    readonly = "on" if disk["readonly"] and not disk["overlay"] else "off"
    cache = "none" if disk["direct"] else "writeback"
    return [
        "-drive",
        f"if=none,id=disk{number},format={disk['format']},file={path},readonly={readonly},"
        f"cache={cache},snapshot={snapshot}",
        "-device",
        f"virtio-blk-pci,drive=disk{number},serial={disk['serial']}",
    ]
