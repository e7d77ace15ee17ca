"""/dev/kvm and one virtual machine: memory slots, interrupt routing, eventfds."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from fcntl import ioctl

from . import ioctls, libc, structs
from .capabilities import NUMBERS
from .errors import ConfigError

_EFD_NONBLOCK, _EFD_CLOEXEC = 0o4000, 0o2000000
_IOAPIC_PINS = 24
_PAGE = 4096
_TSS_ADDRESS = 0xFFFB_D000  # three pages below 4 GiB that Intel's real-mode emulation needs
_IDENTITY_MAP = 0xFFFB_C000


def eventfd(nonblocking: bool = True) -> int:
    """A new eventfd (os.eventfd needs Python 3.10)."""
    return libc.eventfd(0, _EFD_CLOEXEC | (_EFD_NONBLOCK if nonblocking else 0))


def signal_eventfd(fd: int) -> None:
    """Add 1 to an eventfd."""
    os.write(fd, b"\x01\0\0\0\0\0\0\0")


class Kvm:
    """The open /dev/kvm."""

    def __init__(self, path: str = "/dev/kvm") -> None:
        """Raises ConfigError if KVM is not available."""
        try:
            self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise ConfigError(
                f"{path} does not exist", "load the module kvm_intel or kvm_amd"
            ) from None
        except PermissionError:
            raise ConfigError(
                f"{path}: permission denied", "add the user to group kvm and log in again"
            ) from None
        except OSError as error:
            raise ConfigError(f"cannot open {path}: {error.strerror}") from error
        version = ioctl(self.fd, ioctls.GET_API_VERSION)
        if version != ioctls.API_VERSION:
            raise ConfigError(f"KVM's API version is {version}, not {ioctls.API_VERSION}")
        self.run_size = ioctl(self.fd, ioctls.GET_VCPU_MMAP_SIZE)

    def close(self) -> None:
        os.close(self.fd)

    def capability(self, name: str, vm: int | None = None) -> int:
        """The value of a capability (KVM_CHECK_EXTENSION); 0 if KVM lacks it.

        name: without "KVM_CAP_", as in NUMBERS. vm: a VM's descriptor, for capabilities that depend
        on the VM.
        """
        return ioctl(self.fd if vm is None else vm, ioctls.CHECK_EXTENSION, NUMBERS[name])

    def capabilities(self) -> dict[str, int]:
        """The values of all capabilities, by names such as "KVM_CAP_IRQFD"."""
        return {f"KVM_CAP_{name}": self.capability(name) for name in NUMBERS}

    def physical_bits(self) -> int:
        """The width of a guest-physical address in bits (CPUID 0x80000008)."""
        leaves = {entry.function: entry.eax for entry in self.supported_cpuid()}
        return leaves.get(0x8000_0008, 36) & 0xFF

    def supported_cpuid(self) -> list[structs.CpuidEntry]:
        """The CPUID entries that this host can offer a guest (KVM_GET_SUPPORTED_CPUID)."""
        limit = 256
        buffer = bytearray(8 + limit * structs.CPUID_ENTRY.size)
        struct.pack_into("<I", buffer, 0, limit)
        ioctl(self.fd, ioctls.GET_SUPPORTED_CPUID, buffer)
        (count,) = struct.unpack_from("<I", buffer)
        entries = structs.CPUID_ENTRY.iter_unpack(
            bytes(buffer[8 : 8 + count * structs.CPUID_ENTRY.size])
        )
        return [structs.CpuidEntry(*entry) for entry in entries]


class Vm:
    """A VM with in-kernel irqchip and PIT. GSIs 0 to 23 are the IOAPIC's pins; MSI GSIs follow."""

    def __init__(self, kvm: Kvm) -> None:
        self.kvm = kvm
        self.fd = self._create()
        ioctl(self.fd, ioctls.SET_IDENTITY_MAP_ADDR, struct.pack("<Q", _IDENTITY_MAP))
        libc.ioctl(self.fd, ioctls.SET_TSS_ADDR, _TSS_ADDRESS)
        ioctl(self.fd, ioctls.CREATE_IRQCHIP)
        ioctl(self.fd, ioctls.CREATE_PIT2, structs.PIT_CONFIG.pack(0))
        self._slots: list[tuple[int, int, int, int]] = []  # flags, GPA, size, HVA
        self._msi: dict[int, bytes] = {}
        self._next_gsi = _IOAPIC_PINS
        self._batching = False
        self._set_routes()

    def _create(self) -> int:
        while True:
            try:
                return ioctl(self.kvm.fd, ioctls.CREATE_VM, 0)
            except InterruptedError:
                continue
            except OSError as error:
                if error.errno == errno.EBUSY:
                    hint = "stop the other hypervisor, which holds VT-x or AMD-V"
                else:
                    hint = "read the host's kernel log (dmesg)"
                raise ConfigError(f"KVM_CREATE_VM: {error.strerror}", hint) from error

    def add_memory(self, gpa: int, size: int, hva: int, readonly: bool = False) -> None:
        """Add a memslot: the guest sees `size` bytes at the host address `hva` at `gpa`. A guest's
        write to a read-only memslot is an MMIO exit."""
        flags = structs.MEM_READONLY if readonly else 0
        self._set_slot(len(self._slots), flags, gpa, size, hva)
        self._slots.append((flags, gpa, size, hva))

    def _set_slot(self, number: int, *fields: int) -> None:
        packed = structs.MEMORY_REGION.pack(number, *fields)
        ioctl(self.fd, ioctls.SET_USER_MEMORY_REGION, packed)

    def set_dirty_logging(self, on: bool) -> None:
        """Start or stop the dirty log of all writable memslots."""
        log = structs.MEM_LOG_DIRTY_PAGES
        for number, (flags, gpa, size, hva) in enumerate(self._slots):
            new = flags | log if on else flags & ~log
            if new != flags and not flags & structs.MEM_READONLY:
                self._set_slot(number, new, gpa, size, hva)
                self._slots[number] = (new, gpa, size, hva)

    def dirty_logged_slots(self) -> list[tuple[int, int]]:
        """Number and GPA of each memslot with a dirty log."""
        log = structs.MEM_LOG_DIRTY_PAGES
        return [(number, gpa) for number, (flags, gpa, *_) in enumerate(self._slots) if flags & log]

    def read_dirty_log(self, slot: int) -> bytes:
        """Read and clear a memslot's dirty log (KVM_GET_DIRTY_LOG): one bit per page of 4 KiB that
        a vCPU has written. Writes by devices are not in it."""
        # KVM writes whole words of 64 bits
        bits = ctypes.create_string_buffer(-(-self._slots[slot][2] // (_PAGE * 64)) * 8)
        request = structs.DIRTY_LOG.pack(slot, 0, ctypes.addressof(bits))
        ioctl(self.fd, ioctls.GET_DIRTY_LOG, request)
        return bits.raw

    # interrupts

    def set_irq_line(self, gsi: int, level: int) -> None:
        """Set the level of an interrupt line (KVM_IRQ_LINE)."""
        ioctl(self.fd, ioctls.IRQ_LINE, structs.IRQ_LEVEL.pack(gsi, level))

    def allocate_gsi(self) -> int:
        """A GSI for an MSI vector."""
        gsi = self._next_gsi
        self._next_gsi += 1
        return gsi

    def route_msi(self, gsi: int, address: int, data: int) -> None:
        """Route a GSI to an MSI message; replaces the routing table (KVM_SET_GSI_ROUTING)."""
        entry = structs.ROUTING_MSI.pack(
            gsi, structs.IRQ_ROUTING_MSI, 0, 0, address & 0xFFFF_FFFF, address >> 32, data, 0
        )
        if self._msi.get(gsi) == entry:
            return
        self._msi[gsi] = entry
        if not self._batching:
            self._set_routes()

    @contextlib.contextmanager
    def batch_routing(self) -> Iterator[None]:
        """Replace the routing table once, at the end of the block. KVM waits for all vCPUs and
        irqfds at each replacement."""
        self._batching = True
        try:
            yield
        finally:
            self._batching = False
        self._set_routes()

    def _set_routes(self) -> None:
        entries = _irqchip_routes() + list(self._msi.values())
        table = structs.ROUTING_HEADER.pack(len(entries), 0) + b"".join(entries)
        # mutable and above 1,024 bytes: fcntl.ioctl then passes the buffer itself
        ioctl(self.fd, ioctls.SET_GSI_ROUTING, bytearray(table.ljust(1025, b"\0")))

    def irqfd(self, fd: int, gsi: int, assign: bool = True) -> None:
        """Let a signal to an eventfd raise a GSI, or no longer (KVM_IRQFD)."""
        flags = 0 if assign else structs.IRQFD_FLAG_DEASSIGN
        ioctl(self.fd, ioctls.IRQFD, structs.IRQFD.pack(fd, gsi, flags, 0))

    # accesses without an exit to user space

    def ioeventfd_pio(self, fd: int, port: int, length: int, assign: bool = True) -> None:
        """Let a guest's write of `length` bytes to `port` signal an eventfd instead of exiting."""
        flags = structs.IOEVENTFD_FLAG_PIO
        if not assign:
            flags |= structs.IOEVENTFD_FLAG_DEASSIGN
        ioctl(self.fd, ioctls.IOEVENTFD, structs.IOEVENTFD.pack(0, port, length, fd, flags))

    def ioeventfd_mmio(self, fd: int, gpa: int, length: int) -> None:
        """The same for a write to memory without a memslot. KVM decodes the instruction first."""
        ioctl(self.fd, ioctls.IOEVENTFD, structs.IOEVENTFD.pack(0, gpa, length, fd, 0))

    def coalesce_pio(self, port: int, size: int) -> bool:
        """Let KVM queue writes to ports, see coalesced. False if KVM cannot."""
        if not self.kvm.capability("COALESCED_PIO"):
            return False
        zone = structs.COALESCED_ZONE.pack(port, size, 1)
        ioctl(self.fd, ioctls.REGISTER_COALESCED_MMIO, zone)
        return True


def _irqchip_routes() -> list[bytes]:
    """Routes of the PICs' and the IOAPIC's pins, which KVM_SET_GSI_ROUTING would remove."""
    routes = []
    for pin in range(16):
        chip = structs.IRQCHIP_PIC_MASTER if pin < 8 else structs.IRQCHIP_PIC_SLAVE
        routes.append((pin, chip, pin % 8))
    # the PIT's GSI 0 goes to IOAPIC pin 2, as the MADT's override says
    pins = {gsi: gsi for gsi in range(_IOAPIC_PINS) if gsi != 2} | {0: 2}
    routes += [(gsi, structs.IRQCHIP_IOAPIC, pin) for gsi, pin in pins.items()]
    return [
        structs.ROUTING_IRQCHIP.pack(gsi, structs.IRQ_ROUTING_IRQCHIP, 0, 0, chip, pin)
        for gsi, chip, pin in routes
    ]
