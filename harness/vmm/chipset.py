"""The devices of every machine that are not virtio: serial port, power management, PCI bridge."""

from __future__ import annotations

from typing import Any

from harness.kvm.coalesced import CoalescedRing
from harness.kvm.vcpu import Vcpu
from harness.kvm.vm import Vm, eventfd

from .boot import acpi
from .config import Config, EventfdConfig
from .console import Console
from .devices import fwcfg, power, serial, testdev
from .devices.bus import Buses
from .devices.pci import CONFIG_ADDRESS, HostBridge
from .memory import Memory
from .state_reader import StateReader, save_attributes

_FIRST_LAPIC = 0xFEE0_0000  # the MSI address of the local APIC with id 0


class Chipset:
    """serial: None if the guest has only a virtio console. coalesced: whether KVM queues frequent
    writes."""

    def __init__(
        self, vm: Vm, buses: Buses, memory: Memory, config: Config, console: Console | None
    ) -> None:
        """console: receives what the guest writes to its serial port."""
        self._vm = vm
        self._buses = buses
        self.coalesced = False
        self.serial: serial.Serial | None = None
        if console:
            self.serial = serial.Serial(
                console.write_byte, lambda level: vm.set_irq_line(serial.IRQ, level)
            )
            buses.pio.add(serial.PORT, 8, self.serial)
        self.pm1 = power.attach(buses)
        self.bridge = HostBridge(buses)
        self.bridge.on_reset_control = power.reset_control
        if config.kernel:  # payloads use ports: the code is shorter
            self.bridge.enable_ecam(vm)
        for one in config.eventfds:
            self._add_eventfd(one)
        if config.testdev:
            testdev.attach(buses, vm, memory)
            buses.pio.add(fwcfg.SELECTOR, 2, fwcfg.FirmwareConfig(memory.size, config.vcpus))
            memory.write(acpi.BASE, acpi.tables(config.vcpus, ecam=False))

    def _add_eventfd(self, config: EventfdConfig) -> None:
        """The guest writes an eventfd; KVM reads it and injects an interrupt."""
        fd = eventfd()
        self._vm.ioeventfd_mmio(fd, config.address, 4)
        if config.vector:
            gsi = self._vm.allocate_gsi()
            self._vm.route_msi(gsi, _FIRST_LAPIC, config.vector)
            self._vm.irqfd(fd, gsi)

    def coalesce_writes(self, vcpu: Vcpu) -> None:
        """Let KVM queue the most frequent port writes, where it can. vcpu: any; all share the
        ring."""
        page = self._vm.kvm.capability("COALESCED_MMIO")
        zones = [(CONFIG_ADDRESS, 4)] if self.bridge.ports else []
        zones += [(serial.PORT, 1)] if self.serial else []
        if not page or not all(self._vm.coalesce_pio(*zone) for zone in zones):
            return
        ring = CoalescedRing(vcpu.run, page, self._buses.pio.write)
        self._buses.ring, self._buses.drain = ring.indices, ring.drain
        self.coalesced = True

    def save(self) -> dict[str, Any]:
        """The devices' state. Call with the buses' lock held."""
        return {
            "serial": save_attributes(self.serial) if self.serial else {},
            "pm1": save_attributes(self.pm1),
            "pci": self.bridge.save(),
        }

    def restore(self, state: StateReader) -> None:
        """Set a snapshot's state. Raises ConfigError."""
        if self.serial:
            state.read_object("serial").restore_attributes(self.serial)
        state.read_object("pm1").restore_attributes(self.pm1)
        self.bridge.restore(state.read_object("pci"))
