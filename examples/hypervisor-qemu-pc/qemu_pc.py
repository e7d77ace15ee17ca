"""QEMU's "pc" as a hypervisor: its firmware enters the kernel in real mode, and it has no monitor.

pytest --hypervisor=qemu-pc
"""

from __future__ import annotations

from harness.hypervisors.process import ProcessHypervisor, VmConfig, VmmCommand


class QemuPcHypervisor(ProcessHypervisor):
    """See ProcessHypervisor."""

    name = "qemu-pc"
    program = "qemu-system-x86_64"
    package = "qemu-system-x86"
    boots = ("linux16",)

    def command(self, config: VmConfig) -> VmmCommand:
        """The command line of one machine."""
        memory = f"memory-backend-file,id=memory,size={config.memory}M,align=2M,share=on"
        argv = [
            *(self.program_path, "-machine", "pc,accel=kvm,memory-backend=memory"),
            *("-object", f"{memory},mem-path=/proc/self/fd/{{memory}}"),
            *("-cpu", "host", "-smp", str(config.vcpus), "-m", f"{config.memory}M"),
            *("-kernel", config.bzimage, "-initrd", config.initramfs),
            *("-append", config.command_line),
            *("-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"),
        ]
        for number, disk in enumerate(config.disks):
            readonly = "off" if disk.writable else "on"
            cache = "none" if disk.direct else "writeback"
            argv += [
                "-drive",
                f"if=none,id=disk{number},format=raw,file={disk.path},readonly={readonly},"
                f"cache={cache}",
                "-device",
                f"virtio-blk-pci,drive=disk{number},serial={disk.serial}",
            ]
        if config.cid:
            argv += ["-device", f"vhost-vsock-pci,guest-cid={config.cid}"]
        if config.mac:
            argv += ["-netdev", "tap,id=net,fd={tap},vhost=on,vhostfd={vhost}"]
            argv += ["-device", f"virtio-net-pci,netdev=net,mac={config.mac},romfile="]
        return VmmCommand(argv)
