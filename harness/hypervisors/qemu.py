"""QEMU's microvm machine with KVM, under the same supervisor: the peer to measure beside."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import PurePosixPath

from harness.errors import HostError
from harness.hosts.base import Host
from harness.hypervisors.base import Disk, Events, GuestSpec, Machine
from harness.hypervisors.supervised import SupervisedHypervisor

PROGRAM = "qemu-system-x86_64"
# the fewest devices with which it finds PCI, virtio and a console
MACHINE = "microvm,acpi=on,pcie=on,rtc=off,isa-serial=on"


class QemuHypervisor(SupervisedHypervisor):
    """See harness.hypervisors.base.Hypervisor."""

    name = "qemu"

    def __init__(self, host: Host, progress: Callable[[str], None]) -> None:
        if host.run(["sh", "-c", f"command -v {PROGRAM}"], check=False).status:
            raise HostError(
                f"there is no {PROGRAM} on {host.name}",
                mend="install qemu-system-x86 there",
                stage="host",
            )
        super().__init__(host, progress)
        self._regular: dict[str, str] = {}

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

    def create(self, spec: GuestSpec, events: Events) -> Machine:
        image = spec.image
        kernel = self._file(self.host.place(image.kernel), image.kernel.stat().st_size)
        initramfs = self._file(self.host.place(image.initramfs), image.initramfs.stat().st_size)
        cid = random.SystemRandom().randint(3, 0xFFFF_FFFE)
        argv = [
            *(PROGRAM, "-machine", MACHINE, "-accel", "kvm", "-cpu", "host"),
            *("-smp", str(spec.vcpus), "-m", str(spec.memory), "-no-reboot"),
            *("-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"),
            *("-kernel", kernel, "-initrd", initramfs),
            *("-append", spec.command_line),
            *("-device", f"vhost-vsock-pci,guest-cid={cid}"),
        ]
        for number, disk in enumerate(self.disks(spec)):
            argv += _disk(number, disk)
        machine = self.supervisor.start(
            "exec", spec.name, {"argv": argv}, events, spec.boot_timeout
        )
        machine.facts = {**machine.facts, "cid": cid}
        return machine


def _disk(number: int, disk: Disk) -> list[str]:
    # a comma in a file name would start another option: QEMU's escape is to double it
    path = disk.path.replace(",", ",,")
    readonly = "on" if disk.readonly else "off"
    cache = "none" if disk.direct else "writeback"
    return [
        "-drive",
        f"if=none,id=disk{number},format=raw,file={path},readonly={readonly},cache={cache}",
        "-device",
        f"virtio-blk-pci,drive=disk{number},serial={disk.serial}",
    ]
