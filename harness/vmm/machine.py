"""One virtual machine: its parts, and its life from configuration to end."""

from __future__ import annotations

import os
import queue
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, Callable

from harness.kvm import state
from harness.kvm.cpuid import Topology
from harness.kvm.errors import ConfigError, GuestFault
from harness.kvm.vm import Kvm, Vm

from . import snapshot as snapshot_files
from .boot import flat, kernel
from .chipset import Chipset
from .config import Config
from .console import Console
from .devices.bus import Buses
from .devices.virtio.transport import VirtioPci
from .exit_storm import ExitStormDetector
from .main_loop import MainLoop
from .memory import Memory
from .run_control import KICK_SIGNAL
from .snapshot import Snapshot
from .state_reader import HINT, StateReader, encode_fields
from .statistics import MachineStatistics
from .vcpu import VcpuThread
from .virtio_devices import HostResources, VirtioDevices

_MAX_VCPUS = 254  # xAPIC ids have 8 bits, and two of them are reserved
_VSOCK_HEAD_START = 0.1  # seconds that a clone's vsock has before the other devices resume
_CONSOLE_PORTS = {"serial": ("ttyS0",), "virtio": ("hvc0",), "both": ("ttyS0", "hvc0")}
_Hook = Callable[[], object]


class Machine:
    """Builds a machine, runs it, and reports its end once.

    event: called with what happens, see harness/agent/supervisor.py; may be replaced.
    end_machine: ends the machine with an exception, from any thread. guest_started: the guest has
    executed an instruction, or is about to.
    """

    def __init__(
        self,
        config: Config,
        event: Callable[..., None],
        prepare_host: Callable[[], HostResources] = HostResources,
        snapshot: Snapshot | None = None,
    ) -> None:
        """event: called from any thread. prepare_host: called once the configuration was checked.
        snapshot: what the machine continues from; `config` is then its own. Raises ConfigError.
        Nothing runs yet."""
        self.config = config
        self.from_snapshot = snapshot is not None
        self.event = event
        self.guest_started = False
        self._ends: queue.Queue[BaseException] = queue.Queue()
        self.end_machine = self._ends.put
        kvm = Kvm()
        self.buses = Buses()
        _check_cpus(config, kvm)
        self.resources = prepare_host()  # forks: there must be no other thread before
        self.memory = snapshot.memory() if snapshot else self._create_memory()
        self.consoles = {
            port: _create_console(port, event) for port in _CONSOLE_PORTS[config.console]
        }
        with ThreadPoolExecutor(1) as reader:
            # a kernel has tens of MiB: it is read while the machine is built
            boots = config.kernel and not snapshot
            loading = reader.submit(kernel.load, self.memory, config) if boots else None
            self._build(kvm)
            if snapshot:
                self.restore(snapshot.state)
            elif loading:
                kernel.set_entry_state(self.memory, self.vcpus[0], config, loading.result())
            else:
                flat.load(self.memory, self.vcpus[0], config)
        self._statistics = MachineStatistics(self.vm, self.vcpus, self.virtio.backends)
        self.exit_storm = ExitStormDetector(self.vcpus, self.chipset.serial, config.exit_limit)
        self._main_loop = MainLoop(
            self._ends,
            self.buses,
            self.virtio.backends,
            list(self.consoles.values()),
            self.exit_storm,
        )

    # building

    def _create_memory(self) -> Memory:
        return Memory(
            self.config.memory << 20,
            shared_file=self.resources.memory_file,
            huge=self.config.hugepages,
            mergeable=self.config.mergeable,
        )

    def _build(self, kvm: Kvm) -> None:
        """Create everything but the contents of memory and registers."""
        config = self.config
        self.vm = Vm(kvm)
        for region in self.memory.regions:
            self.vm.add_memory(region.gpa, region.size, region.hva)
        serial_console = self.consoles.get("ttyS0")
        self.chipset = Chipset(self.vm, self.buses, self.memory, config, serial_console)
        pins = config.pin or [-1] * config.vcpus
        self.vcpus = [VcpuThread(self.vm, index, self.buses, pin) for index, pin in enumerate(pins)]
        self.chipset.coalesce_writes(self.vcpus[0])
        if not self.from_snapshot:
            self._set_cpuid(kvm)
        self.virtio = VirtioDevices(
            config,
            self.resources,
            self.vm,
            self.memory,
            console=self.consoles.get("hvc0"),
            end_machine=self.end_machine,
        )
        self.virtio.attach(self.chipset.bridge)

    def _set_cpuid(self, kvm: Kvm) -> None:
        supported = kvm.supported_cpuid()
        deadline = bool(kvm.capability("TSC_DEADLINE_TIMER"))
        for vcpu in self.vcpus:
            topology = Topology(vcpu.index, len(self.vcpus), deadline, self.config.pv_eoi)
            vcpu.set_cpuid(topology.apply(supported))

    def facts(self) -> dict[str, Any]:
        """How this machine is built, for the answer to "create"."""
        storage, vsock = self.resources.storage, self.virtio.vsock
        return {
            "vmm": "harness",
            "pid": os.getpid(),
            "cid": vsock.cid if vsock else 0,
            "devices": [f"{one.name} ({one.data_plane})" for one in self.virtio.backends],
            "hugepages": self.config.hugepages,
            "mergeable": self.config.mergeable,
            "aio": ", ".join(sorted(storage.aio)) if storage else "",
            "coalesced_pio": self.chipset.coalesced,
            "binary_stats": bool(self._statistics.binary_stats),
        }

    # snapshot

    def write_snapshot(self, files: dict[str, int]) -> int:
        """Write a paused machine to files, see snapshot.write. Returns the bytes of memory that are
        not zero. Raises ConfigError if a clone could not share the machine's files."""
        disks = self.config.disks
        if any(not one.readonly or one.overlay or one.format != "raw" for one in disks):
            raise ConfigError(
                "a disk that the guest writes cannot be shared", "make every disk read-only"
            )
        if any(vcpu.run_control.in_callback for vcpu in self.vcpus):
            raise ConfigError(
                "a vCPU waits for the answer of a callback", "return from the callback first"
            )
        with self.virtio.suspended():
            return snapshot_files.write(files, asdict(self.config), self.memory, self.save())

    def save(self) -> dict[str, Any]:
        """The machine's state without its memory; vCPUs are paused, devices suspended."""
        indices = state.msr_indices(self.vm.kvm)
        with self.buses.lock:
            vcpus = [state.save_vcpu(vcpu, self.vm, indices) for vcpu in self.vcpus]
            return {
                "vcpus": [encode_fields(fields) for fields in vcpus],
                "vm": encode_fields(state.save_vm(self.vm)),
                **self.chipset.save(),
                "virtio": self.virtio.save(),
            }

    def restore(self, saved: StateReader) -> None:
        """Set the state of a machine that was just built. Its devices resume when it runs. Raises
        ConfigError."""
        try:
            for vcpu, part in zip(self.vcpus, saved.read_objects("vcpus", len(self.vcpus))):
                state.restore_vcpu(vcpu, self.vm, part)
            state.restore_vm(self.vm, saved.read_object("vm"))
            self.chipset.restore(saved)
            count = len(self.virtio.transports)
            self.virtio.restore(saved.read_objects("virtio", count), self.vm)
        except GuestFault as error:
            raise ConfigError(f"snapshot: {error}", HINT) from error

    # running

    def run(self, on_running: _Hook = lambda: None, on_controllable: _Hook = lambda: None) -> None:
        """Run to the end and report it. on_running: called when the vCPUs' threads run.
        on_controllable: called when pause() and resume() may be called."""
        signal.signal(KICK_SIGNAL, lambda number, frame: None)
        # A test waits for a clone's vsock: the other devices resume while the clone runs already.
        vsock = self.virtio.vsock
        first = [one for one in self.virtio.transports if one.backend is vsock]
        self._resume_devices(first)
        if self.config.paused:
            self.pause()
        else:
            self._mark_start()
        for vcpu in self.vcpus:
            vcpu.start(self.end_machine)
        on_running()
        if self.from_snapshot and self.guest_started and vsock:
            # until then this process' one lock is left to the exits that read the vsock's address
            vsock.wait_reset_acknowledged(_VSOCK_HEAD_START, self._ends.empty)
        self._resume_devices([one for one in self.virtio.transports if one not in first])
        on_controllable()
        reason, detail = self._main_loop.wait_end()
        self.event("end", reason=reason, detail=detail, time_ns=time.monotonic_ns())

    def _resume_devices(self, transports: Sequence[VirtioPci]) -> None:
        """Resume devices of a snapshot. A device that cannot resume ends the machine."""
        if not self.from_snapshot:
            return
        vsock = self.virtio.vsock
        try:
            for transport in transports:
                with self.buses.lock:  # the guest may reset the device at the same time
                    transport.resume()
                if vsock and transport.backend is vsock:
                    vsock.reset_connections()
        except GuestFault as fault:
            self.end_machine(fault)

    def _mark_start(self) -> None:
        self.guest_started = True
        stage = "restored" if self.from_snapshot else "kernel"
        self.event("mark", stage=stage, time_ns=time.monotonic_ns())

    def pause(self) -> bool:
        """Stop every vCPU between two instructions; devices continue. Idempotent.

        Raises TimeoutError if a device blocks a vCPU; the vCPUs that ran before then run again.
        """
        controls = [vcpu.run_control for vcpu in self.vcpus]
        running = [control for control in controls if not control.paused]
        try:
            for control in controls:
                control.request_pause()
            for control in controls:
                control.pause()
        except TimeoutError:
            for control in running:
                control.resume()
            raise
        self._main_loop.drain()
        return True

    def resume(self) -> bool:
        """Let all vCPUs run. Idempotent."""
        if not self.guest_started:
            self._mark_start()
        for vcpu in self.vcpus:
            vcpu.run_control.resume()
        return True

    def statistics(self) -> dict[str, int]:
        """See MachineStatistics.read."""
        return self._statistics.read()


def _create_console(port: str, event: Callable[..., None]) -> Console:
    return Console(lambda at, text: event("console", port=port, time_ns=at, text=text))


def _check_cpus(config: Config, kvm: Kvm) -> None:
    """Raises ConfigError for vCPUs that this host cannot run."""
    available = os.sched_getaffinity(0)
    if absent := sorted(set(config.pin) - available):
        cause = f"vCPUs cannot be pinned to CPUs {absent}"
        raise ConfigError(cause, f"choose from CPUs {sorted(available)}")
    limit = min(kvm.capability("MAX_VCPUS"), _MAX_VCPUS)
    if config.vcpus > limit:
        raise ConfigError(
            f"{config.vcpus} vCPUs exceed this host's limit of {limit}",
            f"request at most {limit} vCPUs",
        )
