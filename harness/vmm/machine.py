"""One virtual machine: what it is made of, and its life from configuration to end."""

from __future__ import annotations

import itertools
import os
import queue
import resource
import signal
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, NamedTuple

from harness.kvm import ioctls
from harness.kvm.coalesced import CoalescedRing
from harness.kvm.cpuid import Topology
from harness.kvm.errors import ConfigError, GuestFault, MachineEnd
from harness.kvm.stats import BinaryStats
from harness.kvm.vm import Kvm, Vm, eventfd

from . import snapshot
from .boot import acpi, flat, kernel
from .config import Config, EventfdConfig
from .console import Console
from .devices import fwcfg, power, serial, testdev
from .devices.bus import Buses
from .devices.pci import CONFIG_ADDRESS, HostBridge
from .devices.virtio.balloon import Balloon
from .devices.virtio.block import Block
from .devices.virtio.console import VirtioConsole
from .devices.virtio.net import Net
from .devices.virtio.passt import Carrier, Passt
from .devices.virtio.pmem import Pmem
from .devices.virtio.rng import Rng
from .devices.virtio.transport import Backend, VirtioPci
from .devices.virtio.vhost_user_block import Daemon, VhostUserBlock
from .devices.virtio.vsock import Vsock
from .exit_storm import ExitStormDetector
from .memory import Memory
from .snapshot import Snapshot
from .vcpu import KICK, VcpuThread

_MSI_TO_FIRST = 0xFEE0_0000  # the message address of the local APIC whose id is 0
_XAPIC_IDS = 254  # 8 bits, less the broadcast id
_HOUSEKEEPING = 0.1  # seconds between looks at coalesced writes, unfinished lines, exits
_HEAD_START = 0.1  # seconds that a clone's vsock has before its other devices go on
_Hook = Callable[[], object]
_RESTARTS = ("reset", "triple-fault")  # by which a panicking kernel ends its machine


class HostResources(NamedTuple):
    """What the host has made for a machine: who serves the disks whose backend is "vhost-user", and
    each network's tap or passt, in the order of the configuration. memory: an empty memory file, if
    someone is to map the machine's memory, too."""

    storage: Daemon | None = None
    links: Sequence[int | Carrier] = ()
    memory: int = -1


class Machine:
    """Builds a machine, runs it, and reports its end once."""

    def __init__(
        self,
        config: Config,
        event: Callable[..., None],
        given: Callable[[], HostResources] = HostResources,
        origin: Snapshot | None = None,
    ) -> None:
        """event: gets what happens (see harness/agent/supervisor.py), from any thread. given: makes
        it, once nothing speaks against the machine. origin: what it goes on from, with `config` its
        own. Raises ConfigError; nothing runs yet."""
        self.config = config
        self.restored = origin is not None
        self.event = event
        self.begun = False
        self._ends: queue.Queue[BaseException] = queue.Queue()
        self.end = self._ends.put
        kvm = Kvm()
        self.buses = Buses()
        self._check_pin()
        limit = min(kvm.capability("MAX_VCPUS"), _XAPIC_IDS)
        if config.vcpus > limit:
            raise ConfigError(f"{config.vcpus} vCPUs, there is room for {limit}", "give fewer")
        self.given = given()  # starts processes: there is no other thread before
        self.memory = (
            origin.memory()
            if origin
            else Memory(
                config.memory << 20,
                shared_file=self.given.memory,
                huge=config.hugepages,
                mergeable=config.mergeable,
            )
        )
        self._consoles: list[Console] = []
        self.console = self._add_console("hvc0" if config.console == "virtio" else "ttyS0")
        with ThreadPoolExecutor(1) as reader:
            boots = config.kernel and not origin
            # tens of MiB, which come while the rest is built
            reading = reader.submit(kernel.read, self.memory, config) if boots else None
            self._build(kvm)
            if origin:
                snapshot.restore(self, origin.state)
            elif reading:
                kernel.enter(self.memory, self.vcpus[0], config, reading.result())
            else:
                flat.load(self.memory, self.vcpus[0], config)
        self._stats = self._open_stats()
        self.storm = ExitStormDetector(self.vcpus, self.serial, config.exit_limit)

    # building

    def _build(self, kvm: Kvm) -> None:
        """All but what its memory and its vCPUs' registers hold."""
        self.vm = Vm(kvm)
        for region in self.memory.regions:
            self.vm.add_memory(region.gpa, region.size, region.hva)
        self._add_platform()
        pins = self.config.pin or [-1] * self.config.vcpus
        self.vcpus = [VcpuThread(self.vm, index, self.buses, pin) for index, pin in enumerate(pins)]
        self._coalesced = self._coalesce(kvm)
        if not self.restored:
            self._set_cpuid(kvm)
        self.devices = self._add_devices()

    def _add_console(self, port: str) -> Console:
        emit = self.event
        made = Console(lambda at, text: emit("console", port=port, time_ns=at, text=text))
        self._consoles.append(made)
        return made

    def _check_pin(self) -> None:
        there = os.sched_getaffinity(0)
        if absent := sorted(set(self.config.pin) - there):
            cause = f"vCPUs cannot be pinned to CPUs {absent}"
            raise ConfigError(cause, f"take some of {sorted(there)}")

    def _add_platform(self) -> None:
        self.serial: serial.Serial | None = None
        if self.config.console != "virtio":
            self.serial = serial.Serial(
                self.console.byte, lambda level: self.vm.irq_line(serial.IRQ, level)
            )
            self.buses.pio.add(serial.PORT, 8, self.serial)
        self.pm1 = power.attach(self.buses)
        self.bridge = HostBridge(self.buses)
        self.bridge.on_reset_control = power.reset_control
        if self.config.kernel:  # a payload has ports, which are shorter to write
            self.bridge.map(self.vm)
        for one in self.config.eventfds:
            self._add_eventfd(one)
        if self.config.testdev:
            testdev.attach(self.buses, self.vm, self.memory)
            told = fwcfg.FirmwareConfig(self.memory.size, self.config.vcpus)
            self.buses.pio.add(fwcfg.SELECTOR, 2, told)
            self.memory.write(acpi.BASE, acpi.tables(self.config.vcpus, ecam=False))

    def _add_eventfd(self, one: EventfdConfig) -> None:
        """As a device's: written by the guest, read by KVM."""
        fd = eventfd()
        self.vm.ioeventfd_mmio(fd, one.address, 4)
        if one.vector:
            gsi = self.vm.allocate_gsi()
            self.vm.route_msi(gsi, _MSI_TO_FIRST, one.vector)
            self.vm.irqfd(fd, gsi)

    def _add_devices(self) -> list[Backend]:
        backends: list[Backend] = self._disks()
        if self.config.pmem:
            backends.append(Pmem(self.vm, self.memory, self.config.pmem, self.end))
        self.vsock = Vsock() if self.config.vsock else None
        rng = Rng(self.end) if self.config.rng else None
        self.balloon = Balloon(self.end) if self.config.balloon else None
        self.hvc = None
        if self.config.console != "serial":
            console = self._add_console("hvc0") if self.serial else self.console
            self.hvc = VirtioConsole(console.write, self.end)
        backends += [made for made in (self.vsock, rng, self.balloon, self.hvc) if made]
        backends += [
            Net(network.mac, link) if isinstance(link, int) else Passt(network.mac, link, self.end)
            for network, link in zip(self.config.networks, self.given.links)
        ]
        self.transports = [VirtioPci(self.vm, self.memory, backend) for backend in backends]
        for transport in self.transports:
            self.bridge.add(transport.function)
        return backends

    def _disks(self) -> list[Backend]:
        numbers = itertools.count()
        storage = self.given.storage
        return [
            VhostUserBlock(disk, storage, next(numbers))
            if storage and disk.backend == "vhost-user"
            else Block(disk.path, disk.serial, disk.readonly, disk.direct, self.end)
            for disk in self.config.disks
        ]

    def _coalesce(self, kvm: Kvm) -> bool:
        """Let KVM queue the writes that come most often. False where it cannot."""
        page = kvm.capability("COALESCED_MMIO")
        zones = [(CONFIG_ADDRESS, 4)] if self.bridge.ports else []
        zones += [(serial.PORT, 1)] if self.serial else []
        if not page or not all(self.vm.coalesce_pio(*zone) for zone in zones):
            return False
        ring = CoalescedRing(self.vcpus[0].run, page, self.buses.pio.write)
        self.buses.ring, self.buses.drain = ring.indices, ring.drain
        return True

    def _set_cpuid(self, kvm: Kvm) -> None:
        supported = kvm.supported_cpuid()
        deadline = bool(kvm.capability("TSC_DEADLINE_TIMER"))
        for vcpu in self.vcpus:
            topology = Topology(vcpu.index, len(self.vcpus), deadline, self.config.pv_eoi)
            vcpu.set_cpuid(topology.apply(supported))

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
            "devices": [f"{device.name} ({device.plane})" for device in self.devices],
            "hugepages": self.config.hugepages,
            "mergeable": self.config.mergeable,
            "aio": ", ".join(sorted(self.given.storage.aio)) if self.given.storage else "",
            "coalesced_pio": self._coalesced,
            "binary_stats": bool(self._stats),
        }

    # running

    def run(self, running: _Hook = lambda: None, started: _Hook = lambda: None) -> None:
        """Run to the end and report it; returns when all is said. running: called when the vCPUs'
        threads do. started: called when pause() and resume() can be."""
        signal.signal(KICK, lambda number, frame: None)
        # a clone is waited for by vsock: its other devices follow while it runs already
        first = [one for one in self.transports if one.backend is self.vsock]
        self._resume(first)
        if self.config.paused:
            self.pause()
        else:
            self._begin()
        for vcpu in self.vcpus:
            vcpu.start(self.end)
        running()
        if self.restored and self.begun and self.vsock:
            # this process's one lock is for the exits by which the guest reads its address
            self.vsock.wait_reset(_HEAD_START, self._ends.empty)
        self._resume([one for one in self.transports if one not in first])
        started()
        reason, detail = _explain(self._wait())
        self._drain()  # the panic's line may have come no further than the ring
        self._flush(0)
        if self.console.panic is not None and reason in _RESTARTS:
            reason, detail = "panic", self.console.panic
        self.event("end", reason=reason, detail=detail, time_ns=time.monotonic_ns())

    def _resume(self, transports: Sequence[VirtioPci]) -> None:
        """Devices of a snapshot go on; one that cannot ends the machine."""
        if not self.restored:
            return
        try:
            for transport in transports:
                with self.buses.lock:  # the guest may reset it meanwhile
                    transport.resume()
                if self.vsock and transport.backend is self.vsock:
                    self.vsock.reset_connections()
        except GuestFault as fault:
            self.end(fault)

    def _begin(self) -> None:
        """The guest's first instruction is next."""
        self.begun = True
        stage = "restored" if self.restored else "kernel"
        self.event("mark", stage=stage, time_ns=time.monotonic_ns())

    def _wait(self) -> BaseException:
        """What ended the machine; looks after slow things meanwhile."""
        while True:
            try:
                return self._ends.get(timeout=_HOUSEKEEPING)
            except queue.Empty:
                self._drain()
                self._check()
                self._flush(_HOUSEKEEPING)
            if self.console.halted:
                return MachineEnd("panic", self.console.panic or "")
            if end := self.storm.look():
                return end

    def _flush(self, age: float) -> None:
        for console in self._consoles:
            console.flush_stale(age)

    def _drain(self) -> None:
        # a device may be slow and hold the lock: ends must be seen all the same
        if not self.buses.lock.acquire(timeout=_HOUSEKEEPING):
            return
        try:
            self.buses.drain()
        except (GuestFault, MachineEnd) as end:
            self.end(end)
        finally:
            self.buses.lock.release()

    def _check(self) -> None:
        try:
            for device in self.devices:
                device.check()
        except (GuestFault, MachineEnd) as end:
            self.end(end)

    def pause(self) -> bool:
        """Stop every vCPU between two instructions; devices go on. Idempotent. Raises TimeoutError
        when a device keeps one of them; then all go on that ran."""
        ran = [vcpu for vcpu in self.vcpus if not vcpu.paused]
        try:
            for vcpu in self.vcpus:
                vcpu.ask_pause()
            for vcpu in self.vcpus:
                vcpu.pause()
        except TimeoutError:
            for vcpu in ran:
                vcpu.resume()
            raise
        self._drain()
        return True

    def resume(self) -> bool:
        """Let the vCPUs go on. Idempotent."""
        if not self.begun:
            self._begin()
        for vcpu in self.vcpus:
            vcpu.resume()
        return True

    def statistics(self) -> dict[str, int]:
        """KVM's counters summed over VM and vCPUs, our own, and CPU time (ns)."""
        totals = {"user_exits": 0}
        for stats in self._stats:
            for counter, value in stats.read().items():
                totals[counter] = totals.get(counter, 0) + value
        for vcpu in self.vcpus:
            for reason, count in enumerate(vcpu.exits):
                if count:
                    key = f"user_exits_{ioctls.EXIT_NAMES.get(reason, str(reason))}"
                    totals[key] = totals.get(key, 0) + count
                    totals["user_exits"] += count
        for device in self.devices:
            totals.update(device.counters())
        # last: with it the kernel brings this thread's time up to date, for the cgroup's count, too
        usage = resource.getrusage(resource.RUSAGE_SELF)
        totals["cpu_ns"] = int((usage.ru_utime + usage.ru_stime) * 1e9)
        return totals


def _explain(error: BaseException) -> tuple[str, str]:
    """The control protocol's word for what ended the machine, and its detail."""
    if isinstance(error, MachineEnd):
        return error.reason, error.detail
    if isinstance(error, GuestFault):
        return "guest-fault", str(error)
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return "vmm-error", text[-4000:]
