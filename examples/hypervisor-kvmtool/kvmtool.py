"""kvmtool (lkvm) as a hypervisor. Debian 12 has no package of it: build `lkvm-static` yourself.

LKVM=/path/to/lkvm-static pytest --hypervisor=kvmtool
"""

from __future__ import annotations

import os
from pathlib import Path

from harness.errors import HostError, ProvisionError
from harness.hosts.base import Host
from harness.hypervisors.process import ProcessHypervisor, VmConfig, VmmCommand


class KvmtoolHypervisor(ProcessHypervisor):
    """See ProcessHypervisor.

    kvmtool enters a bzImage in real mode, and has no ACPI: a guest that powers off only halts. It
    keeps a guest's memory in a mapping of its own, so an emulated host is replaced afterwards.

    It refuses several CPUs: a Debian kernel does not read MP tables, and would find one CPU.
    kvmtool offers no MAC address, so the guest chooses one: one test of the conformance suite
    fails.
    """

    name = "kvmtool"
    program = "lkvm"
    package = "lkvm from source"
    boots = ("linux16",)

    def find_program(self, host: Host) -> str:
        """The program of the variable LKVM, copied to the host; else the host's own."""
        path = os.environ.get("LKVM")
        if path:
            return host.place(Path(path), executable=True)
        try:
            return super().find_program(host)
        except HostError as error:
            hint = "build lkvm-static from source, and set LKVM to its path"
            raise HostError(error.cause, hint=hint, stage="host") from error

    def command(self, config: VmConfig) -> VmmCommand:
        """The command line of one machine. Raises ProvisionError for several CPUs."""
        if config.vcpus > 1:
            raise ProvisionError(
                f"vcpus={config.vcpus}: a Debian kernel finds only one CPU in kvmtool's machine",
                hint="use vcpus=1, or use --hypervisor=kvm",
                stage="create",
                guest=config.spec.name,
            )
        argv = [
            *(self.program_path, "run", "--name", "guest", "--console", "serial", "--rng"),
            *("--cpus", str(config.vcpus), "--mem", str(config.memory)),
            *("--kernel", config.bzimage, "--initrd", config.initramfs),
            *("--params", config.command_line),
        ]
        for disk in config.disks:
            # one option per disk: kvmtool cannot have a disk both read-only and direct
            option = ",direct" if disk.direct else ""
            argv += ["--disk", disk.path + (option if disk.writable else ",ro")]
        if config.cid:
            argv += ["--vsock", str(config.cid)]
        # kvmtool configures a descriptor as a new tap, unless tapif is the path of a device
        device = f"tapif=/dev/net/tun,fd={{tap}},vhost=1,guest_mac={config.mac}"
        argv += ["--network", f"mode=tap,{device}" if config.mac else "mode=none"]
        # the control socket of each machine is a file in the home directory
        return VmmCommand(argv, environment={"HOME": "{directory}"})
