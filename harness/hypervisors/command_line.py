"""The command line of a guest's kernel, for every hypervisor."""

from __future__ import annotations

from harness.hypervisors.base import ROOT_DISK, GuestSpec
from harness.hypervisors.connectivity import Connectivity

# panic=-1 and reboot=t: a panic ends the machine at once, by a triple fault. Test kernels need no
# self-tests and one serial port.
_COMMON = (
    "quiet panic=-1 reboot=t tsc=reliable no_timer_check cryptomgr.notests 8250.nr_uarts=1 "
    "random.trust_cpu=on"
)


def kernel_command_line(
    spec: GuestSpec,
    connectivity: Connectivity,
    *,
    emulated_host: bool,
    console: str = "ttyS0",
) -> str:
    """The complete command line: a hypervisor passes it on and adds nothing.

    connectivity: how the guest is reached; its init configures the network by it. emulated_host:
    Host.emulated. console: the device that the VMM's console is in the guest.
    """
    # The init names the disks by this list, in the order in which the guest finds them.
    disks = [*([ROOT_DISK] if spec.root == "disk" else []), *(disk.serial for disk in spec.disks)]
    words = [
        f"console={console}",
        _COMMON,
        "harness.root=pmem" if spec.root == "pmem" else "",
        f"harness.disks={','.join(disks)}",
        spec.cmdline,
        connectivity.cmdline,
        # A program at the same addresses again needs no new translation, which would fill the
        # emulated host's code buffer: see CODE_BUFFER in harness/hosts/qemu.py.
        "norandmaps" if emulated_host else "",
    ]
    return " ".join(filter(None, words))
