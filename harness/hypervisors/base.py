"""What every hypervisor gives: machines made from a specification, with events and statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from harness.hosts.base import Host, Stream

if TYPE_CHECKING:
    from images.store import GuestImage

# What every guest's kernel is told, whichever hypervisor runs it. A panic ends the machine by a
# triple fault (reboot=t) at once; test kernels need no self-tests and one serial port.
COMMAND_LINE = (
    "console=ttyS0 quiet panic=-1 reboot=t tsc=reliable no_timer_check cryptomgr.notests "
    "8250.nr_uarts=1 random.trust_cpu=on"
)


@dataclass(frozen=True)
class Disk:
    """A disk of a guest. path: on the host. serial: as the guest sees it, <= 20 ASCII bytes.
    direct: bypass the host's page cache (O_DIRECT), for measuring the disk and not the cache."""

    path: str
    serial: str
    readonly: bool = True
    direct: bool = False


@dataclass(frozen=True)
class GuestSpec:
    """What a guest is made of. memory: MiB. boot_timeout: seconds until ready."""

    name: str
    image: GuestImage
    vcpus: int = 1
    memory: int = 256
    boot_timeout: float = 60.0
    disks: tuple[Disk, ...] = ()
    cmdline: str = ""

    @property
    def command_line(self) -> str:
        """All that its kernel is told."""
        return f"{COMMAND_LINE} {self.cmdline}".strip()


@dataclass(frozen=True)
class End:
    """How a machine ended.

    reason: "power-off", "reset", "panic", "triple-fault", "killed" (by a signal), "stopped" (on
    request), "guest-fault" (it did what no correct driver does), "refused" (it could not be made),
    "vmm-error", "lost" (the control connection broke). time_ns: host CLOCK_MONOTONIC.
    """

    reason: str
    detail: str = ""
    time_ns: int = 0


@dataclass
class Events:
    """Where a machine reports; called from the hypervisor's reader thread, so be quick.

    on_console(time_ns, text): whole console lines as they end, stamped on the host.
    on_mark(stage, time_ns): "create" and "kernel" (first guest instruction), host monotonic ns.
    on_end(end): once, last.
    """

    on_console: Callable[[int, str], None]
    on_mark: Callable[[str, int], None]
    on_end: Callable[[End], None]


class Machine(Protocol):
    """One running virtual machine, seen from its hypervisor. Not yet SSH: that is harness.guest.

    facts: "vmm", "pid", "cid", "devices" and whatever else says how it is built.
    """

    facts: Mapping[str, Any]

    def connect(self, port: int, timeout: float) -> Stream:
        """A stream to the guest's vsock port; OSError when refused or late."""

    def statistics(self) -> dict[str, int]:
        """KVM's binary statistics, vCPU counters summed over vCPUs, and the VMM's own counters:
        "exits", "halt_exits", "io_exits", ..., "user_exits" (exits that reached the VMM),
        "user_exits_io", "user_exits_mmio", "cpu_ns" (CPU time of the VMM process with its vCPUs).
        """

    def stop(self, timeout: float = 5.0) -> None:
        """End it (power button is the guest's affair: this is the plug). Idempotent."""


class Hypervisor(Protocol):
    """A way to make machines on a host.

    name: as given to --hypervisor. backend: as in HostFacts.
    """

    name: str
    host: Host

    def create(self, spec: GuestSpec, events: Events) -> Machine:
        """Start a machine. Raises ProvisionError (stage "create") naming cause and mend."""

    def capabilities(self) -> Mapping[str, int]:
        """KVM_CHECK_EXTENSION's answers by name ("KVM_CAP_IRQFD": 1); 0 or missing: not there."""

    def watch(self, callback: OnUtilization) -> None:
        """Report the host's utilization from now on, about once a second; called once at most."""

    def close(self) -> None:
        """End every machine and whatever serves them. Idempotent.

        Raises HarnessError (stage "teardown") that names what could not be ended.
        """


# Called with host monotonic nanoseconds, and cpu.user, cpu.system, cpu.iowait, cpu.steal,
# cpu.guest, cpu.idle (percent of all CPUs), memory.used, memory.total (MiB). Be quick.
OnUtilization = Callable[[int, Mapping[str, float]], None]


class HypervisorFactory(Protocol):
    """What an entry point of the group `harness.hypervisors` gives: mostly the class itself.

    It may have two attributes more. `needs_kvm` (default True): False takes the local machine
    without asking whether its KVM can run guests. `guest_image(progress) -> GuestImage`: what its
    guests boot, in place of the image store's own.
    """

    def __call__(self, host: Host, progress: Callable[[str], None]) -> Hypervisor:
        """Get ready to make machines. Raises HostError when this host cannot."""
