"""One virtual machine: what it is made of, and its life from configuration to end."""

from __future__ import annotations

import os
import queue
import resource
import signal
import threading
import time
import traceback
from dataclasses import dataclass, field, fields
from typing import Any, Callable

from .boot import pvh
from .console import Console
from .control import Channel
from .devices import power, serial
from .devices.bus import Buses
from .devices.pci import CONFIG_ADDRESS, HostBridge
from .devices.virtio.block import Block
from .devices.virtio.transport import Backend, VirtioPci
from .devices.virtio.vsock import Vsock
from .errors import ConfigError, GuestFault, MachineEnd
from .kvm import ioctls
from .kvm.coalesced import CoalescedRing
from .kvm.cpuid import Topology, set_cpuid
from .kvm.stats import BinaryStats
from .kvm.vcpu import KICK, Vcpu
from .kvm.vm import Kvm, Vm
from .memory import Memory

_XAPIC_IDS = 254  # 8 bits, less the broadcast id
_HOUSEKEEPING = 0.1  # seconds between looks at coalesced writes, unfinished lines, a panic
_PANIC_GRACE = 0.5  # seconds a panicking kernel has to print its trace and reset


@dataclass
class DiskConfig:
    path: str
    serial: str
    readonly: bool = True
    direct: bool = False


@dataclass
class Config:
    """What "create" asks for. memory: MiB."""

    kernel: str
    initramfs: str = ""
    cmdline: str = ""
    vcpus: int = 1
    memory: int = 256
    disks: list[DiskConfig] = field(default_factory=list)
    vsock: bool = True

    @classmethod
    def parse(cls, given: dict[str, Any]) -> Config:
        """Raises ConfigError for fields that are unknown or of another type."""
        try:
            disks = [DiskConfig(**disk) for disk in given.pop("disks", [])]
            config = cls(disks=disks, **given)
        except (TypeError, AttributeError) as error:
            raise ConfigError(f"configuration: {error}") from error
        if not isinstance(config.memory, int) or not 0 < config.memory <= 1 << 20:
            raise ConfigError(f"memory of {config.memory} MiB", "give 64 MiB or more")
        if not isinstance(config.vcpus, int) or config.vcpus < 1:
            raise ConfigError(f"{config.vcpus} vCPUs", "give at least 1")
        _check_types(config)
        for disk in disks:
            _check_types(disk)
        return config


def _check_types(record: Config | DiskConfig) -> None:
    """JSON may have put anything into a field; a number as a path would open a descriptor."""
    for item in fields(record):
        value = getattr(record, item.name)
        kind = {"str": str, "int": int, "bool": bool}.get(str(item.type))
        if kind and type(value) is not kind:
            raise ConfigError(f"configuration: {item.name} is no {item.type}: {value!r:.80}")
        if kind is str:
            try:
                usable = b"\0" not in os.fsencode(value)
            except UnicodeEncodeError:
                usable = False
            if not usable:
                raise ConfigError(f"configuration: {item.name} is no usable text: {value!r:.80}")


class Machine:
    """Builds a machine, runs it, and reports its end once."""

    def __init__(self, config: Config, channel: Channel) -> None:
        """Raises ConfigError; nothing runs yet."""
        self.config = config
        self.channel = channel
        self._ends: queue.Queue[BaseException] = queue.Queue()
        self.buses = Buses()
        kvm = Kvm()
        limit = min(kvm.capability(ioctls.CAP_MAX_VCPUS), _XAPIC_IDS)
        if config.vcpus > limit:
            raise ConfigError(f"{config.vcpus} vCPUs, there is room for {limit}", "give fewer")
        self.memory = Memory(config.memory << 20)
        self.vm = Vm(kvm, self.memory)
        self.console = Console(lambda at, text: channel.event("console", time_ns=at, text=text))
        self._add_platform()
        self.devices = self._add_devices()
        self.vcpus = [Vcpu(self.vm, index, self.buses) for index in range(config.vcpus)]
        self._coalesced = self._coalesce(kvm)
        self._set_cpuid(kvm)
        self._load()
        self._stats = self._open_stats()

    # building

    def _add_platform(self) -> None:
        self.serial = serial.Serial(
            self.console.byte, lambda level: self.vm.irq_line(serial.IRQ, level)
        )
        self.buses.pio.add(serial.PORT, 8, self.serial)
        power.attach(self.buses)
        self.bridge = HostBridge(self.buses)
        self.bridge.on_reset_control = power.reset_control

    def _add_devices(self) -> list[Backend]:
        backends: list[Backend] = [
            Block(disk.path, disk.serial, disk.readonly, disk.direct, self._ends.put)
            for disk in self.config.disks
        ]
        self.vsock = Vsock() if self.config.vsock else None
        if self.vsock:
            backends.append(self.vsock)
        for backend in backends:
            self.bridge.add(VirtioPci(self.vm, self.memory, backend).function)
        return backends

    def _coalesce(self, kvm: Kvm) -> bool:
        """Let KVM queue the writes that come most often. False where it cannot."""
        page = kvm.capability(ioctls.CAP_COALESCED_MMIO)
        if not page or not self.vm.coalesce_pio(serial.PORT, 1):
            return False
        self.vm.coalesce_pio(CONFIG_ADDRESS, 4)
        self.buses.drain = CoalescedRing(self.vcpus[0].run, page, self.buses.pio).drain
        return True

    def _set_cpuid(self, kvm: Kvm) -> None:
        supported = kvm.supported_cpuid()
        deadline = bool(kvm.capability(ioctls.CAP_TSC_DEADLINE_TIMER))
        for vcpu in self.vcpus:
            topology = Topology(vcpu.index, len(self.vcpus), deadline)
            set_cpuid(vcpu.fd, topology.apply(supported))

    def _load(self) -> None:
        config = self.config
        kernel = pvh.load_kernel(self.memory, config.kernel)
        initramfs = None
        if config.initramfs:
            initramfs = pvh.load_initramfs(self.memory, config.initramfs, kernel)
        info = pvh.write_start_info(self.memory, config.cmdline, initramfs, config.vcpus)
        self.vcpus[0].set_protected_mode(kernel.entry, rbx=info)

    def _open_stats(self) -> list[BinaryStats]:
        try:
            return [BinaryStats(self.vm.fd)] + [BinaryStats(vcpu.fd) for vcpu in self.vcpus]
        except OSError:  # ENOTTY: a kernel before 5.14
            return []

    def facts(self) -> dict[str, Any]:
        """How this machine is built, for "create"'s answer."""
        return {
            "vmm": "harness",
            "pid": os.getpid(),
            "cid": self.vsock.cid if self.vsock else 0,
            "devices": [f"{device.name} ({_plane(device)})" for device in self.devices],
            "coalesced_pio": self._coalesced,
            "binary_stats": bool(self._stats),
        }

    # running

    def run(self) -> None:
        """Run to the end and report it; returns when all is said."""
        signal.signal(KICK, lambda number, frame: None)
        self.channel.event("mark", stage="kernel", time_ns=time.monotonic_ns())
        for vcpu in self.vcpus:
            vcpu.start(self._ends.put)
        threading.Thread(target=self._serve, name="control", daemon=True).start()
        reason, detail = _explain(self._wait())
        self._drain()  # the panic's line may have come no further than the ring
        self.console.flush_stale(0)
        if self.console.panic is not None and reason != "stopped":
            reason, detail = "panic", self.console.panic
        self.channel.event("end", reason=reason, detail=detail, time_ns=time.monotonic_ns())

    def _wait(self) -> BaseException:
        """What ended the machine; looks after slow things meanwhile."""
        panic_at = 0.0
        while True:
            try:
                return self._ends.get(timeout=_HOUSEKEEPING)
            except queue.Empty:
                self._drain()
                self.console.flush_stale(_HOUSEKEEPING)
            if self.console.panic is not None:
                panic_at = panic_at or time.monotonic()
                if time.monotonic() - panic_at > _PANIC_GRACE:
                    return MachineEnd("panic", self.console.panic)

    def _drain(self) -> None:
        # a device may be slow and hold the lock: ends must be seen all the same
        if not self.buses.lock.acquire(timeout=_HOUSEKEEPING):
            return
        try:
            self.buses.drain()
        except (GuestFault, MachineEnd) as end:
            self._ends.put(end)
        finally:
            self.buses.lock.release()

    # control

    def _serve(self) -> None:
        operations: dict[str, Callable[..., Any]] = {
            "stats": self.statistics,
            "stop": lambda: True,
            "type": self._type,
        }
        try:
            stopped = self.channel.serve(operations)
        except (OSError, ValueError) as error:
            self._ends.put(MachineEnd("vmm-error", f"control: {error}"))
        else:
            self._ends.put(MachineEnd("stopped", "" if stopped else "the control channel closed"))

    def _type(self, text: str) -> bool:
        with self.buses.lock:
            self.serial.receive(text.encode())
        return True

    def statistics(self) -> dict[str, int]:
        """KVM's counters summed over VM and vCPUs, our own, and CPU time (ns)."""
        totals = {"user_exits": 0}
        for stats in self._stats:
            for counter, value in stats.read().items():
                totals[counter] = totals.get(counter, 0) + value
        for vcpu in self.vcpus:
            for reason, count in list(vcpu.exits.items()):
                key = f"user_exits_{ioctls.EXIT_NAMES.get(reason, str(reason))}"
                totals[key] = totals.get(key, 0) + count
                totals["user_exits"] += count
        for device in self.devices:
            if isinstance(device, Block):
                serial_number = device.serial.rstrip(b"\0").decode("ascii", "replace")
                totals[f"block_requests_{serial_number}"] = device.requests
        usage = resource.getrusage(resource.RUSAGE_SELF)
        totals["cpu_ns"] = int((usage.ru_utime + usage.ru_stime) * 1e9)
        return totals


def _plane(device: Backend) -> str:
    return "in kernel" if isinstance(device, Vsock) else "in process"


def _explain(error: BaseException) -> tuple[str, str]:
    """The control protocol's word for what ended the machine, and its detail."""
    if isinstance(error, MachineEnd):
        return error.reason, error.detail
    if isinstance(error, GuestFault):
        return "guest-fault", str(error)
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return "vmm-error", text[-4000:]
