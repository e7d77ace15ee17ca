"""The hypervisor protocol: a hypervisor creates machines by a specification; machines report events
and statistics. capabilities.py has what is optional."""

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
SSH_TRANSPORTS = ("auto", "vsock", "network")
ROOTS = ("disk", "pmem", "initramfs")
BOOT_PROTOCOLS = ("auto", "pvh", "linux64", "linux16")
DEFAULT_ROOT = "disk"
ROOT_DISK = "root"  # the serial of the root disk


class EmulatedDevice(Protocol):
    """A device that a test emulates in its own process; see harness.guest.devices.

    A machine with such devices starts paused. The guest adds them, then resumes the machine.
    """

    def connect_interrupt(self, deliver: Callable[[int], object], /) -> None:
        """Take the function that delivers the device's interrupts."""


@dataclass(frozen=True)
class Disk:
    """A disk of a guest.

    path: on the host. serial: at most 20 ASCII bytes; the guest has /dev/disk/by-serial/SERIAL.
    direct: bypass the host's page cache (O_DIRECT), to measure the disk and not the cache. format:
    "raw" or "qcow2". overlay: the guest's writes go to a temporary file that ends with the guest.
    backend: "vhost-user" (qemu-storage-daemon), "process" (the VMM itself, raw files only), or
    "auto": the VMM's default.
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
        """Whether the guest can write to it."""
        return self.overlay or not self.readonly


def _check_cpu_lists(guest: str, **lists: Any) -> None:
    """Raises ProvisionError for a number where a list of the host's CPUs is needed."""
    for name, value in lists.items():
        if isinstance(value, int):
            raise ProvisionError(
                f"{name}={value!r} is one number, not a list of the host's CPUs",
                hint=f"write {name}=[{value}]; the guest's number of CPUs is vcpus=",
                stage="create",
                guest=guest,
            )


@dataclass(frozen=True)
class GuestSpec:
    """What a test requests for a guest. A hypervisor refuses what it does not support.

    memory: MiB. boot_timeout: seconds from the start until SSH has logged in.

    Limits of its cgroup, 0 and () for none. cpu_limit: CPUs' worth of time. cpus: numbers of the
    host's CPUs. memory_limit: MiB of the host's memory, the VMM's included; a guest that needs more
    ends.

    For the built-in VMM. pin: the host's CPU of each vCPU. exit_limit: exits to user space a second
    that end the guest; 0 for no limit, None for the default. sandbox: False to look into the VMM's
    process. vmm: options by the VMM's names: {"balloon": False}. devices: emulated by the test, and
    present before the first instruction.

    network: "bridge" (the session's private network), "passt" (user-mode sockets), "none", or
    "auto": the bridge where the host allows one. ssh: "vsock", "network" (the guest has no vsock),
    or "auto": vsock where the host has it.

    boot: how the kernel is entered.
        "pvh": the entry of the ELF file's PVH note, in 32-bit protected mode.
        "linux64": the bzImage's 64-bit entry (64-bit boot protocol).
        "linux16": the bzImage's setup code in real mode (16-bit boot protocol), by the VMM or its
            firmware. The kernel decompresses itself.
        "auto": what the hypervisor does best.
    root: "disk" (a virtio disk), "pmem" (persistent memory that maps the image), "initramfs" (no
    other root than that). hugepages: memory from the host's reserved huge pages. mergeable: the
    host's KSM may merge its memory with equal pages.

    Raises ValueError for an unknown word.
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
        for name, words in (("network", NETWORKS), ("ssh", SSH_TRANSPORTS), ("root", ROOTS)):
            if getattr(self, name) not in words:
                raise ValueError(f"{name}={getattr(self, name)!r}: must be one of {words}")
        _check_cpu_lists(self.name, cpus=self.cpus, pin=self.pin)

    @property
    def limits(self) -> dict[str, Any]:
        """The limits of its cgroup, as the agent takes them."""
        limits = {"cpu": self.cpu_limit, "cpus": list(self.cpus), "memory": self.memory_limit}
        return {name: value for name, value in limits.items() if value}


@dataclass(frozen=True)
class Segment:
    """`size` bytes of a local file, from `offset` on, to be loaded at a guest-physical address."""

    gpa: int
    path: Path
    offset: int
    size: int


@dataclass(frozen=True)
class PayloadSpec:
    """A guest that is flat code: what is loaded where, and how its first vCPU starts.

    mode: "real", "protected" or "long"; harness/vmm/boot/flat.py has the state of each. entry: a
    guest-physical address. registers: by name; the others are 0. memory: MiB. exit_limit, cpus: as
    of GuestSpec. paused: nothing runs before the operation "resume". testdev: has the devices that
    kvm-unit-tests need. eventfds: guest-physical addresses (multiples of 4 from 0xC0000000 on)
    where KVM turns a write of 4 bytes into an eventfd; each with the interrupt vector (16 to 255)
    that the eventfd raises on the first vCPU by irqfd, or 0 for none.
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
        _check_cpu_lists(self.name, cpus=self.cpus)

    @property
    def limits(self) -> dict[str, Any]:
        """The limits of its cgroup, as the agent takes them."""
        return {"cpus": list(self.cpus)} if self.cpus else {}


@dataclass(frozen=True)
class End:
    """How a machine ended. time_ns: the host's CLOCK_MONOTONIC.

    Every hypervisor reports these reasons:
        "power-off", "reset", "panic"; "killed": the VMM got a signal; "stopped": by Machine.stop();
        "out-of-memory": the guest reached its memory_limit; "vmm-error": the VMM failed.
    Some report more:
        "triple-fault"; "debug-exit": by the test device, `detail` is what was written to it;
        "guest-fault": the guest did what no correct driver does; "exit-storm": it exceeded its
        exit_limit; "refused": it was not created; "backend-lost": the process behind a device
        ended; "callback-error": a callback or device of the test raised an exception; "lost": the
        control connection broke.
    """

    reason: str
    detail: str = ""
    time_ns: int = 0


@dataclass
class Events:
    """The callbacks of a machine. The hypervisor calls them from its reader thread: they return
    quickly.

    on_console(time_ns, text): each console line when it ends, stamped on the host.
    on_mark(stage, time_ns): a stage of the boot, in ns of the host's CLOCK_MONOTONIC. "create" is
        required. "kernel" is the guest's first instruction; a hypervisor that cannot know it leaves
        it out. The guest's own lines on the console mark "init" and "sshd". A clone has "restored"
        (it continues) and "adopted" (its identity is its own) in place of "kernel".
    on_end(end): once, as the last call.
    on_callback(message): an access that a callback of the test answers; see guest.callbacks.
    """

    on_console: Callable[[int, str], None]
    on_mark: Callable[[str, int], None]
    on_end: Callable[[End], None]
    on_callback: Callable[[Mapping[str, Any]], None] = lambda message: None


class Machine(Protocol):
    """One running machine, as its hypervisor sees it. harness.guest adds SSH.

    facts: required are "vmm" (the program) and "pid"; "cid" (0 without vsock); "address" and "mac"
    where it has a network. "cgroup" is its cgroup's directory on the host, if it has one; "port"
    its interface at the bridge, in the network of guests on the host.
    """

    facts: Mapping[str, Any]

    def connect(self, port: int, timeout: float) -> Stream:
        """A stream to a port of the guest, by vsock or TCP. Raises OSError when the guest refuses
        or does not answer within `timeout` seconds."""

    def statistics(self) -> dict[str, int]:
        """Counters by name. One that the hypervisor cannot know is absent, never 0.

        KVM's binary statistics, those of vCPUs summed: "exits", "halt_exits", "io_exits", ... Of
        the VMM: "user_exits", "user_exits_io", "user_exits_mmio" (exits that reached it), "cpu_ns"
        (CPU time of its process). Of the cgroup: "cgroup_cpu_usec" (all processes, with the
        kernel's work for them, without the cost of these requests), "cgroup_memory",
        "cgroup_memory_peak" (bytes), "cgroup_oom_kills".
        """

    def stop(self, timeout: float = 5.0) -> None:
        """End it at once, as pulling the plug does. Idempotent. Raises HarnessError (stage
        "teardown") when it still runs after `timeout` seconds."""


class Hypervisor(Protocol):
    """Creates machines on a host.

    name: the session sets it to the label on the command line. host: where the machines run.
    """

    name: str
    host: Host

    def create(self, spec: GuestSpec, events: Events) -> Machine:
        """Start a machine. Raises ProvisionError (stage "create") with cause and hint, also for
        what the hypervisor does not support."""

    def capabilities(self) -> Mapping[str, int]:
        """KVM_CHECK_EXTENSION's answers by name: {"KVM_CAP_IRQFD": 1}; 0 or absent: missing."""

    def watch(self, callback: OnUtilization) -> None:
        """Report the utilization of the host and of the guests from now on, about once a second.
        It is called once at most."""

    def close(self) -> None:
        """End every machine and all processes behind them. Idempotent. Raises HarnessError (stage
        "teardown") that names what did not end."""


class OnUtilization(Protocol):
    """Receives the utilization of a host. It returns quickly."""

    def __call__(
        self,
        time_ns: int,
        values: Mapping[str, float],
        guests: Mapping[str, Mapping[str, float]] | None = None,
        /,
    ) -> None:
        """time_ns: the host's CLOCK_MONOTONIC. values: cpu.user, cpu.system, cpu.iowait, cpu.steal,
        cpu.guest, cpu.idle (percent of all CPUs), memory.used, memory.total (MiB), ...;
        memory.quarantined is the part of memory.used that the agent withholds from reuse. guests:
        by name, where they are known: cpu.user, cpu.system (percent of one CPU), memory.used,
        pressure.cpu, pressure.memory, pressure.io (percent of the time)."""


class HypervisorFactory(Protocol):
    """What an entry point of the group `harness.hypervisors` names: mostly the class itself."""

    def __call__(self, host: Host, progress: Callable[[str], None]) -> Hypervisor:
        """Prepare to create machines. progress: prints a line for the user. Raises HostError when
        this host cannot run them."""
