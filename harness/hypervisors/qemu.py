"""QEMU with KVM, under the same agent as the built-in VMM: the hypervisor to compare with."""

from __future__ import annotations

import itertools
from dataclasses import replace

from harness.hypervisors.base import Disk, Events, GuestSpec, Machine, PayloadSpec
from harness.hypervisors.capabilities import SupportsPayloads
from harness.hypervisors.machines import PAYLOAD_TIMEOUT, start_machine
from harness.hypervisors.payload_file import parse_elf
from harness.hypervisors.process import ProcessHypervisor, VmConfig, VmmCommand
from harness.hypervisors.unsupported import refuse

PROGRAM = "qemu-system-x86_64"
# the built-in VMM's machine has them, too
_RNG_AND_BALLOON = (
    *("-object", "rng-random,id=random,filename=/dev/urandom"),
    *("-device", "virtio-rng-pci,rng=random,disable-legacy=on"),
    *("-device", "virtio-balloon-pci,free-page-reporting=on,disable-legacy=on"),
)


class QemuHypervisor(ProcessHypervisor, SupportsPayloads):
    """QEMU's microvm: the fewest devices with which it has PCI, virtio and a console. The clock is
    there because a PC's kernel waits for seconds for a clock that the ACPI tables do not deny."""

    name = "qemu"
    program = PROGRAM
    package = "qemu-system-x86"
    features = frozenset({"hugepages", "mergeable", "overlay", "qcow2"})
    vhost_user_disks = True
    payload_eventfds = False
    machine = "microvm,acpi=on,pcie=on,rtc=on,isa-serial=on"

    def create(self, spec: GuestSpec, events: Events) -> Machine:
        """See Hypervisor. microvm has no room for persistent memory: the root is a disk then."""
        return super().create(replace(spec, root="disk") if spec.root == "pmem" else spec, events)

    def command(self, config: VmConfig) -> VmmCommand:
        """See ProcessHypervisor."""
        spec = config.spec
        argv = [
            *self._machine_arguments(spec, f",{_memory_options(spec)}"),
            *("-kernel", config.vmlinux, "-initrd", config.initramfs),
            *("-append", config.command_line),
            *("-object", self._memory_backend(spec)),
            *_RNG_AND_BALLOON,
        ]
        if config.cid:
            argv += ["-device", f"vhost-vsock-pci,guest-cid={config.cid}"]
        sockets = itertools.count()
        for number, disk in enumerate(config.disks):
            if disk.backend == "vhost-user":
                argv += _vhost_user(number, next(sockets))
            else:
                argv += _disk(number, disk)
        if config.mac:
            argv += _network(config.mac)
        return VmmCommand(argv)

    def _memory_backend(self, spec: GuestSpec) -> str:
        """The guest's memory: in the agent's file where a daemon maps it, and on an emulated host
        (see harness/agent/memory_quarantine.py). KSM merges private memory alone. QEMU creates
        a file with huge pages itself, since the agent's file has none."""
        size = f"id=memory,size={spec.memory}M"
        if spec.hugepages:
            return f"memory-backend-memfd,{size},share=on,hugetlb=on,hugetlbsize=2M"
        mapped = any(disk.backend == "vhost-user" for disk in spec.disks)
        if spec.mergeable or not (mapped or self.host.emulated):
            return f"memory-backend-ram,{size}"
        path = "/proc/self/fd/{memory}"
        return f"memory-backend-file,{size},mem-path={path},align=2M,share=on"

    def _machine_arguments(self, spec: GuestSpec | PayloadSpec, options: str = "") -> list[str]:
        """What all machines have in common. options: of -machine, each after a comma."""
        # without it an exit ends the time in which a full code buffer does harm (see kvm.py)
        pv_eoi = ",kvm-pv-eoi=off" if self.host.emulated else ""
        return [
            *(self.program_path, "-machine", self.machine + options, "-accel", "kvm"),
            # all features of the host's CPU, as the built-in VMM
            *("-cpu", f"host,migratable=off{pv_eoi}"),
            *("-smp", str(spec.vcpus), "-m", str(spec.memory), "-no-reboot"),
            *("-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"),
            *("-chardev", "socket,id=monitor,fd={monitor}", "-mon", "chardev=monitor,mode=control"),
        ]

    def create_payload(self, spec: PayloadSpec, events: Events) -> Machine:
        """See SupportsPayloads. QEMU starts an ELF file that is not Linux by its PVH entry, in
        protected mode."""
        _refuse_payload(spec)
        (path,) = {segment.path for segment in spec.segments}
        kernel = self.host.place(path, regular=True)
        argv = [*self._machine_arguments(spec), "-kernel", kernel]
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


class Q35Hypervisor(QemuHypervisor):
    """QEMU's PC of today: with firmware and the devices of such a PC."""

    name = "qemu-q35"
    machine = "q35"


def _refuse_payload(spec: PayloadSpec) -> None:
    """Raises ProvisionError for what only the built-in VMM offers to a payload."""
    file = spec.segments[0].path
    one, out = 'give one such file, with mode="protected"', "leave it out"
    several = any(segment.path != file for segment in spec.segments)
    rows: list[tuple[object, str, str]] = [
        (several, "a payload of several files", one),
        (spec.mode != "protected", f"a payload in {spec.mode} mode", one),
        (spec.registers, "registers of a payload", out),
        (spec.devices or spec.disks or spec.testdev, "a payload's devices or disks", out),
        (spec.eventfds, "a payload's eventfds", out),
        (spec.paused, "a payload that waits", "start it at once"),
        (spec.exit_limit, "an exit_limit", out),
    ]
    if not any(row[0] for row in rows):
        other_entry = spec.entry != parse_elf(file.read_bytes()).entry
        rows.append((other_entry, "an entry that is not the file's own", out))
    reason = "is for the built-in VMM: QEMU starts an ELF by its PVH entry"
    refuse(
        spec.name,
        ((when, f"{what} {reason}", f"{how}, or use --hypervisor=kvm") for when, what, how in rows),
    )


def _network(mac: str) -> list[str]:
    """The agent puts the descriptors' numbers in."""
    return [
        "-netdev",
        "tap,id=net,fd={tap},vhost=on,vhostfd={vhost}",
        "-device",
        f"virtio-net-pci,netdev=net,mac={mac},disable-legacy=on,romfile=",
    ]


def _memory_options(spec: GuestSpec) -> str:
    return f"memory-backend=memory,mem-merge={'on' if spec.mergeable else 'off'}"


def _vhost_user(number: int, socket: int) -> list[str]:
    """A disk that qemu-storage-daemon serves. socket: its number among such disks."""
    return [
        *("-chardev", f"socket,id=disk{number},fd={{disk{socket}}}"),
        *("-device", f"vhost-user-blk-pci,chardev=disk{number},num-queues=1"),
    ]


def _disk(number: int, disk: Disk) -> list[str]:
    # a comma in a file name would start another option: QEMU's escape is to double it
    path = disk.path.replace(",", ",,")
    snapshot = "on" if disk.overlay else "off"
    readonly = "off" if disk.writable else "on"
    cache = "none" if disk.direct else "writeback"
    return [
        "-drive",
        f"if=none,id=disk{number},format={disk.format},file={path},readonly={readonly},"
        f"cache={cache},snapshot={snapshot}",
        "-device",
        f"virtio-blk-pci,drive=disk{number},serial={disk.serial}",
    ]
