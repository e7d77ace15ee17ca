"""What every hypervisor gives: machines made from a specification, with events and statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from harness.errors import ProvisionError
from harness.hosts.base import Host
from harness.ssh.process import Stream

if TYPE_CHECKING:
    from images.image import GuestImage

NETWORKS = ("auto", "bridge", "passt", "none")
SSH_WAYS = ("auto", "vsock", "network")
ROOTS = ("disk", "pmem", "initramfs")
DEFAULT_ROOT = "disk"
ROOT_DISK = "root"  # its serial


class EmulatedDevice(Protocol):
    """A device that a test emulates in its own process; see harness.guest.devices.

    A machine with such devices starts paused. The guest adds them, then resumes the machine.
    """

    def connect_interrupt(self, deliver: Callable[[int], object], /) -> None:
        """Take the function that delivers the device's interrupts."""


@dataclass(frozen=True)
class Disk:
    """A disk of a guest.

    path: on the host. serial: its name in the guest, /dev/disk/by-serial/NAME, <= 20 ASCII bytes.
    direct: bypass the host's page cache (O_DIRECT), for measuring the disk and not the cache.
    format: "raw" or "qcow2". overlay: the guest may write, but not to `path`: to a temporary file
    that ends with the guest. backend: "vhost-user" (qemu-storage-daemon), "process" (the VMM's
    own, raw files only), or "auto" for the first that can be had.
    """

    path: str
    serial: str
    readonly: bool = True
    direct: bool = False
    format: str = "raw"
    overlay: bool = False
    backend: str = "auto"

    @property
    def writable(self) -> bool:
        """As the guest sees it."""
        return self.overlay or not self.readonly


def _check_numbers(guest: str, **lists: Any) -> None:
    """Raises ProvisionError where a number stands for a list of the host's CPUs."""
    for name, value in lists.items():
        if isinstance(value, int):
            raise ProvisionError(
                f"{name}={value!r}: these are numbers of the host's CPUs",
                hint="give a list; how many CPUs the guest has is vcpus",
                stage="create",
                guest=guest,
            )


@dataclass(frozen=True)
class GuestSpec:
    """What a guest is made of. memory: MiB. boot_timeout: seconds until ready.

    Of its cgroup: cpu_limit: how many CPUs' worth of time; cpus: which of the host's CPUs it runs
    on; memory_limit: MiB of the host's, its VMM included, past which it ends. 0 and () are none.
    Of the built-in VMM: pin: the host's CPU for each vCPU. exit_limit: exits to user space a second
    that end it; 0 for none, None for the VMM's default. sandbox: False to look into its process.
    vmm: what else it is to do otherwise, by its own names: {"balloon": False}.

    network: "bridge" (its hypervisor's private one), "passt" (the host's, by user-mode sockets),
    "none", or "auto": the bridge where the host allows it. ssh: "vsock", "network" (then there is
    no vsock), or "auto": vsock where the host has it. Raises ValueError for another word.

    boot: how its kernel is entered, of "auto", "pvh", "linux64". root: "disk" or "pmem": its root
    file system is a virtio disk, or persistent memory that maps the image; "initramfs": it has no
    other than its initramfs. hugepages: its memory is of the host's reserved huge pages. mergeable:
    the host's KSM may merge it with equal pages. devices: of the test's own, there before its first
    instruction.
    """

    name: str
    image: GuestImage
    vcpus: int = 1
    memory: int = 256
    boot_timeout: float = 60.0
    disks: tuple[Disk, ...] = ()
    cmdline: str = ""
    vmm: Mapping[str, Any] = field(default_factory=dict)
    cpu_limit: float = 0.0
    cpus: Sequence[int] = ()
    memory_limit: int = 0
    pin: Sequence[int] = ()
    exit_limit: int | None = None
    sandbox: bool = True
    network: str = "auto"
    ssh: str = "auto"
    boot: str = "auto"
    root: str = DEFAULT_ROOT
    hugepages: bool = False
    mergeable: bool = False
    devices: tuple[EmulatedDevice, ...] = ()

    def __post_init__(self) -> None:
        for name, words in (("network", NETWORKS), ("ssh", SSH_WAYS), ("root", ROOTS)):
            if getattr(self, name) not in words:
                raise ValueError(f"{name}={getattr(self, name)!r}: must be one of {words}")
        _check_numbers(self.name, cpus=self.cpus, pin=self.pin)

    @property
    def limits(self) -> dict[str, Any]:
        """What its cgroup is told."""
        asked = {"cpu": self.cpu_limit, "cpus": list(self.cpus), "memory": self.memory_limit}
        return {name: value for name, value in asked.items() if value}


@dataclass(frozen=True)
class Segment:
    """`size` bytes of a file of this machine, from `offset` on, for a guest-physical address."""

    gpa: int
    path: Path
    offset: int
    size: int


@dataclass(frozen=True)
class PayloadSpec:
    """A guest that is flat code: what lies where, and how its first vCPU starts.

    mode: "real", "protected" or "long" (harness/vmm/boot/flat.py says what each finds). entry: a
    guest-physical address. registers: by name, the others are 0. memory: MiB. exit_limit: as of
    GuestSpec. paused: nothing runs before Machine.ask("resume"). testdev: with the devices that
    kvm-unit-tests need. eventfds: guest-physical addresses, multiples of 4 from 0xC0000000 on,
    where KVM takes a write of 4 bytes for an eventfd, and the interrupt vector (16 to 255) that
    this raises on the first vCPU by irqfd, 0 for none. cpus: the host's CPUs that its threads may
    run on; all if there are none.
    """

    name: str
    segments: tuple[Segment, ...]
    mode: str
    entry: int
    registers: Mapping[str, int] = field(default_factory=dict)
    vcpus: int = 1
    memory: int = 16
    disks: tuple[Disk, ...] = ()
    devices: tuple[EmulatedDevice, ...] = ()
    exit_limit: int | None = None
    paused: bool = False
    testdev: bool = False
    eventfds: Mapping[int, int] = field(default_factory=dict)
    cpus: Sequence[int] = ()

    def __post_init__(self) -> None:
        _check_numbers(self.name, cpus=self.cpus)

    @property
    def limits(self) -> dict[str, Any]:
        """As the agent's cgroups want them."""
        return {"cpus": list(self.cpus)} if self.cpus else {}


@dataclass(frozen=True)
class End:
    """How a machine ended.

    reason: "power-off", "reset", "panic", "triple-fault", "killed" (by a signal), "stopped" (on
    request), "debug-exit" (by the test device; detail: what was written to it), "guest-fault" (it
    did what no correct driver does), "exit-storm" (it kept its VMM busy with exits),
    "out-of-memory" (it reached its memory_limit), "refused" (it could not be made), "backend-lost"
    (the process that served a device ended), "callback-error" (a callback or device of the test
    raised an exception), "vmm-error", "lost" (the control connection broke). time_ns: host
    CLOCK_MONOTONIC.
    """

    reason: str
    detail: str = ""
    time_ns: int = 0


@dataclass
class Events:
    """Where a machine reports; called from the hypervisor's reader thread, so be quick.

    on_console(time_ns, text): whole console lines as they end, stamped on the host.
    on_mark(stage, time_ns): "create" and "kernel" (first guest instruction), host monotonic ns;
    a clone's "restored" (it goes on) and "adopted" (its identity is its own) in place of "kernel".
    on_end(end): once, last.
    on_callback(message): an access that the test's own code is to answer (see guest.callbacks).
    """

    on_console: Callable[[int, str], None]
    on_mark: Callable[[str, int], None]
    on_end: Callable[[End], None]
    on_callback: Callable[[Mapping[str, Any]], None] = lambda message: None


class Machine(Protocol):
    """One running virtual machine, seen from its hypervisor. Not yet SSH: that is harness.guest.

    facts: "vmm", "pid", "cid", "devices" and whatever else says how it is built; "address" and
    "mac" where it is in a network.

    One that can be reached into has `ask(operation, **arguments)`, too: the operations of
    harness/agent/introspection.py, and HarnessError for what the machine refuses.
    """

    facts: Mapping[str, Any]

    def connect(self, port: int, timeout: float) -> Stream:
        """A stream to the guest's port (vsock, or TCP without it); OSError when refused or late."""

    def statistics(self) -> dict[str, int]:
        """KVM's binary statistics, vCPU counters summed over vCPUs, and the VMM's own counters:
        "exits", "halt_exits", "io_exits", ..., "user_exits" (exits that reached the VMM),
        "user_exits_io", "user_exits_mmio", "cpu_ns" (CPU time of the VMM process with its vCPUs).
        Of its cgroup, where it has one: "cgroup_cpu_usec" (all of its processes, and the kernel's
        work for them, without what it takes a VMM to tell all this), "cgroup_memory",
        "cgroup_memory_peak" (bytes), "cgroup_oom_kills".
        """

    def stop(self, timeout: float = 5.0) -> None:
        """End it (power button is the guest's affair: this is the plug). Idempotent."""


class Hypervisor(Protocol):
    """A way to make machines on a host.

    name: as given to --hypervisor. backend: as in HostFacts.

    One that can clone has `clone(folder, spec, events, prefault_pages=()) -> Machine`, too: as
    create(), going on from the snapshot in that folder on the host. Its machines have
    `snapshot(folder) -> bytes kept`, and may have `private_dirty_pages(folder) -> pages`: the pages
    that a clone has written. The next clones copy them before they run.
    """

    name: str
    host: Host

    def create(self, spec: GuestSpec, events: Events) -> Machine:
        """Start a machine. Raises ProvisionError (stage "create") naming cause and hint."""

    def capabilities(self) -> Mapping[str, int]:
        """KVM_CHECK_EXTENSION's answers by name ("KVM_CAP_IRQFD": 1); 0 or missing: not there."""

    def watch(self, callback: OnUtilization) -> None:
        """Report the utilization of the host and of our guests from now on, about once a second;
        called once at most."""

    def close(self) -> None:
        """End every machine and whatever serves them. Idempotent.

        Raises HarnessError (stage "teardown") that names what could not be ended.
        """


class OnUtilization(Protocol):
    """Wants to know how busy a host is. It is quick."""

    def __call__(
        self,
        time_ns: int,
        values: Mapping[str, float],
        guests: Mapping[str, Mapping[str, float]] | None = None,
        /,
    ) -> None:
        """time_ns: the host's monotonic clock. values: cpu.user, cpu.system, cpu.iowait, cpu.steal,
        cpu.guest, cpu.idle (percent of all CPUs), memory.used, memory.total (MiB), ...;
        memory.quarantined is the part of memory.used that the agent withholds from reuse. guests:
        by name, of those whose use can be told: cpu.user, cpu.system (percent of one CPU),
        memory.used, pressure.cpu, pressure.memory, pressure.io (percent of the time)."""


class HypervisorFactory(Protocol):
    """What an entry point of the group `harness.hypervisors` gives: mostly the class itself.

    It may have two attributes more. `needs_kvm` (default True): False takes the local machine
    without asking whether its KVM can run guests. `guest_image(progress) -> GuestImage`: what its
    guests boot, in place of the image store's own.
    """

    def __call__(self, host: Host, progress: Callable[[str], None]) -> Hypervisor:
        """Get ready to make machines. Raises HostError when this host cannot."""
