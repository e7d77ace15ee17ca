"""A guest's machine in a test's hands: registers, memory, exits, faults, devices."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from harness.errors import GuestEnded, HarnessError, hide_frames
from harness.guest.callbacks import Callbacks
from harness.guest.devices import PciDevice, PortDevice
from harness.guest.vcpu import Ask, Vcpu
from harness.hypervisors.base import EmulatedDevice

__tracebackhide__ = hide_frames
CHUNK = 256 << 10  # bytes of memory in one message, as harness/agent/introspection.py takes
PAGE = 4096
_COUNTER = "user_exits_"


class Memory:
    """Guest memory by guest-physical address: `memory[gpa : gpa + n]` is bytes, and can be set."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._logs = 0

    def __getitem__(self, where: slice) -> bytes:
        """Raises HarnessError outside of guest memory."""
        start, size = _range(where)
        pieces = [
            base64.b64decode(self._ask("read_memory", gpa=at, size=length))
            for at, length in _chunks(start, size)
        ]
        return b"".join(pieces)

    def __setitem__(self, where: slice, data: bytes) -> None:
        """Raises HarnessError outside of guest memory, ValueError for another length."""
        start, size = _range(where)
        if len(data) != size:
            raise ValueError(f"{len(data)} bytes for {size} of memory")
        for at, length in _chunks(start, size):
            piece = data[at - start : at - start + length]
            self._ask("write_memory", gpa=at, data=base64.b64encode(piece).decode())

    @contextlib.contextmanager
    def log_dirty_pages(self) -> Iterator[DirtyLog]:
        """KVM notes which pages the vCPUs write, for as long as the block lasts. The first write to
        each page costs an exit then. What devices write is not noted. Such blocks may be nested."""
        self._ask("log_dirty_pages", on=True)
        self._logs += 1
        try:
            yield DirtyLog(self._ask)
        finally:
            self._logs -= 1
            if not self._logs:
                with contextlib.suppress(GuestEnded):
                    self._ask("log_dirty_pages", on=False)


@dataclass(frozen=True)
class DirtyLog:
    """Pages that vCPUs write; see Memory.log_dirty_pages."""

    _ask: Ask

    def pages(self) -> list[int]:
        """Guest-physical addresses of the pages (4 KiB) written since this was last asked."""
        slots = self._ask("dirty_log_slots")
        if not slots:
            raise HarnessError("writes are not logged any more", hint="ask within the block")
        return [
            gpa + PAGE * (8 * place + bit)
            for slot, gpa in slots
            for place, byte in enumerate(self._bits(slot))
            if byte
            for bit in range(8)
            if byte >> bit & 1
        ]

    def _bits(self, slot: int) -> bytes:
        found, more = b"", True
        while more:
            piece, more = self._ask("dirty_bitmap", slot=slot, at=len(found))
            found += base64.b64decode(piece)
        return found


def _range(where: slice) -> tuple[int, int]:
    """Start and length."""
    if not isinstance(where, slice) or where.start is None or where.stop is None or where.step:
        raise TypeError("guest memory is taken by [start:stop], with both addresses")
    if not 0 <= where.start <= where.stop:
        raise ValueError(f"no range of memory: {where.start:#x} to {where.stop:#x}")
    return where.start, where.stop - where.start


def _chunks(start: int, size: int) -> Iterator[tuple[int, int]]:
    for at in range(start, start + size, CHUNK):
        yield at, min(CHUNK, start + size - at)


@dataclass(frozen=True)
class Exit:
    """An exit as a callback sees it, before the VMM answers it.

    reason: "io", "mmio", or one that ends the machine ("shutdown", "internal-error", ...). port or
    address: of an access, size bytes wide. data: what is written; None for a read. vcpu: its
    registers can be read and set; what is set comes after the access, a read's result included.
    """

    reason: str
    vcpu: Vcpu
    port: int | None = None
    address: int | None = None
    size: int = 0
    data: int | None = None
    write: bool = False


@dataclass(frozen=True)
class Hook:
    """A callback at exits, until remove()."""

    remove: Callable[[], None]


@dataclass(frozen=True)
class AtExit:
    """The nth exit from now on of one reason, at any port and address or one alone."""

    reason: str
    nth: int = 1
    port: int | None = None
    address: int | None = None


@dataclass(frozen=True)
class AtRequest:
    """The nth request from now on to a device whose queues the VMM itself serves: a disk by its
    serial, another by its name as in the guest's facts."""

    device: str
    nth: int = 1


class Ports(Protocol):
    """What can be put on ports; see PortDevice."""

    def read(self, offset: int, size: int, /) -> int: ...
    def write(self, offset: int, size: int, value: int, /) -> None: ...


class VirtualMachine:
    """What `guest.vm` is.

    Attributes:
        vcpus: by index. memory: guest memory.

    Every method raises GuestEnded when the guest has ended, HarnessError for what cannot be, and
    whatever a callback raised since.
    """

    def __init__(self, ask: Ask, callbacks: Callbacks, vcpus: int) -> None:
        self._ask = ask
        self._upcalls = callbacks
        self._depth = 0
        self.vcpus = tuple(Vcpu(ask, index) for index in range(vcpus))
        self.memory = Memory(ask)

    def pause(self) -> None:
        """Stop every vCPU between two instructions; devices go on. Idempotent. One that waits for
        a callback is paused when that has returned."""
        self._ask("pause")

    def resume(self) -> None:
        """Let the vCPUs go on. Idempotent."""
        self._ask("resume")

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Paused for as long as the block lasts; such blocks may be nested."""
        self.pause()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self.resume()

    # -- exits -----------------------------------------------------------------------------

    @property
    def exits(self) -> dict[str, int]:
        """Exits that reached the VMM, by reason: "io", "mmio", ..."""
        return {
            name.removeprefix(_COUNTER): count
            for name, count in self.statistics.items()
            if name.startswith(_COUNTER)
        }

    @property
    def statistics(self) -> dict[str, int]:
        """KVM's binary statistics and the VMM's counters; see Machine.statistics."""
        return dict(self._ask("stats"))

    def on_exit(
        self,
        reason: str,
        callback: Callable[[Exit], int | None],
        *,
        port: int | None = None,
        address: int | None = None,
    ) -> Hook:
        """Call `callback` at every exit of a reason, while the vCPU waits.

        A number that it returns is the answer: a read gives it, a write goes no further. None lets
        the VMM go on as usual. Ports that KVM queues without an exit (the serial port's data, PCI's
        address register) are not seen.
        """
        at = _place(reason, port, address)

        def answer(message: Mapping[str, Any]) -> int | None:
            return callback(self._exit(message))

        with self._upcalls.lock:
            number = self._ask("add_exit_hook", reason=reason, at=at)
            self._upcalls.add("hook", number, answer)

        def remove() -> None:
            self._ask("remove_exit_hook", hook=number)
            self._upcalls.remove("hook", number)

        return Hook(remove)

    def _exit(self, message: Mapping[str, Any]) -> Exit:
        reason, at = message["reason"], message["at"]
        return Exit(
            reason=reason,
            vcpu=self.vcpus[message["vcpu"]],
            port=at if reason == "io" else None,
            address=at if reason == "mmio" else None,
            size=message.get("size", 0),
            data=message.get("data"),
            write=message.get("write", False),
        )

    # -- faults ----------------------------------------------------------------------------

    def inject_fault(
        self,
        kind: str,
        *,
        at: AtExit | AtRequest | None = None,
        vcpu: int = 0,
        vector: int = 0,
        error_code: int | None = None,
    ) -> None:
        """Let something go wrong, now or `at` a moment to come.

        Of a vCPU, before its next instruction (at=None: of `vcpu`, now; AtExit: of that which
        exits): "exception" (`vector`, `error_code`), "nmi", "triple-fault", "machine-check".
        Of a request (AtRequest): "disk-error" (the guest sees EIO), "lost-interrupt" (it is served,
        and the guest not told), "bad-used" (its completion names a request that there cannot be).
        """
        if isinstance(at, AtRequest):
            self._ask("fail_request", kind=kind, device=at.device, nth=at.nth)
            return
        when = None
        if at is not None:
            place = _place(at.reason, at.port, at.address)
            when = {"reason": at.reason, "at": place, "nth": at.nth}
        arguments = {"vector": vector, "error_code": error_code}
        self._ask("inject_fault", kind=kind, vcpu=vcpu, exit=when, **arguments)

    # -- devices ---------------------------------------------------------------------------

    def add_port_device(
        self, port: int, length: int, device: Ports, *, irq: int | None = None
    ) -> Callable[[], object]:
        """Let an object of the test answer `length` ports from `port` on, also of a guest that
        runs. irq: an interrupt line for it. Returns what pulses that line."""
        read, write = device.read, device.write

        def answer(message: Mapping[str, Any]) -> int | None:
            if message["write"]:
                write(message["offset"], message["size"], message["data"])
                return None
            return read(message["offset"], message["size"])

        arguments = {"port": port, "length": length, "irq": irq}
        number = self._add("add_port_device", answer, arguments)
        return partial(self._ask, "interrupt", device=number)

    def add_device(self, device: EmulatedDevice) -> None:
        """Add a device of the test's own: a PCI function only before the guest has begun."""
        if isinstance(device, PortDevice):
            pulse = self.add_port_device(device.port, device.length, device, irq=device.irq)
            device.connect_interrupt(lambda vector: pulse())
            return
        if not isinstance(device, PciDevice):
            raise HarnessError(
                f"{device!r:.80} is neither a PortDevice nor a PciDevice",
                hint="derive the device from a class of harness.guest.devices",
            )

        def answer(message: Mapping[str, Any]) -> int | None:
            bar, offset, size = message["bar"], message["offset"], message["size"]
            if message["write"]:
                device.write(bar, offset, size, message["data"])
                return None
            return device.read(bar, offset, size)

        arguments = {
            "vendor": device.vendor,
            "device": device.device,
            "class_code": device.class_code,
            "bars": [[bar.size, bar.io] for bar in device.bars],
            "vectors": device.vectors,
        }
        number = self._add("add_pci_device", answer, arguments)
        device.connect_interrupt(
            lambda vector: self._ask("interrupt", device=number, vector=vector)
        )

    def _add(
        self,
        operation: str,
        answer: Callable[[Mapping[str, Any]], int | None],
        arguments: Mapping[str, Any],
    ) -> int:
        with self._upcalls.lock:
            number = int(self._ask(operation, **arguments))
            self._upcalls.add("device", number, answer)
        return number


def _place(reason: str, port: int | None, address: int | None) -> int | None:
    """Where: a port of "io", an address of "mmio". Raises ValueError for what cannot be."""
    if (port is not None and reason != "io") or (address is not None and reason != "mmio"):
        raise ValueError(f'port= belongs to "io", address= to "mmio", neither to {reason!r}')
    return address if port is None else port
