"""VM introspection: registers, memory, exits, faults and devices of a guest."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from harness.errors import HarnessError, hide_frames
from harness.guest.callbacks import Callbacks
from harness.guest.devices import PciDevice, PortDevice
from harness.guest.memory import Memory
from harness.guest.vcpu import Ask, Vcpu
from harness.hypervisors.base import EmulatedDevice

__tracebackhide__ = hide_frames
_EXIT_COUNTER = "user_exits_"  # the prefix of the VMM's counters by exit reason


@dataclass(frozen=True)
class Exit:
    """An exit to user space, before the VMM handles it.

    reason: "io", "mmio", or a reason that ends the machine ("shutdown", "internal-error", ...).
    port or address: of an access of `size` bytes. data: the written value; None for a read.
    vcpu: its registers can be read and set. New values take effect after the access, and replace
    the result of a read.
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
    """A callback at exits. It is active until remove()."""

    remove: Callable[[], None]


@dataclass(frozen=True)
class AtExit:
    """The nth exit from now on with this reason, at any or at one port or address."""

    reason: str
    nth: int = 1
    port: int | None = None
    address: int | None = None


@dataclass(frozen=True)
class AtRequest:
    """The nth request from now on to a device whose queues the VMM itself serves.

    device: a disk's serial, or another device's name in the guest's facts.
    """

    device: str
    nth: int = 1


class PortHandler(Protocol):
    """An object that answers I/O ports; see PortDevice."""

    def read(self, offset: int, size: int, /) -> int: ...
    def write(self, offset: int, size: int, value: int, /) -> None: ...


class VirtualMachine:
    """The type of `guest.vm`.

    Attributes:
        vcpus: by index. memory: guest memory.

    Every method raises GuestEnded after the guest's end, HarnessError for an invalid request, and
    the pending exception of a callback.
    """

    def __init__(self, ask: Ask, callbacks: Callbacks, vcpus: int) -> None:
        self._ask = ask
        self._callbacks = callbacks
        self._pauses = 0
        self.vcpus = tuple(Vcpu(ask, index) for index in range(vcpus))
        self.memory = Memory(ask)

    def pause(self) -> None:
        """Stop every vCPU between two instructions. Devices continue. Idempotent.

        A vCPU that waits for a callback stops when the callback has returned.
        """
        self._ask("pause")

    def resume(self) -> None:
        """Let all vCPUs run. Idempotent."""
        self._ask("resume")

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Pause all vCPUs within the with block. Blocks may be nested."""
        self.pause()
        self._pauses += 1
        try:
            yield
        finally:
            self._pauses -= 1
            if not self._pauses:
                self.resume()

    # -- exits -----------------------------------------------------------------------------

    @property
    def exits(self) -> dict[str, int]:
        """The number of exits that reached the VMM by reason: "io", "mmio", ..."""
        return {
            name.removeprefix(_EXIT_COUNTER): count
            for name, count in self.statistics.items()
            if name.startswith(_EXIT_COUNTER)
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
        """Call `callback` at every exit with this reason while the vCPU waits.

        A returned int completes the access: it is the result of a read, and a write is dropped.
        None lets the VMM handle the exit. Some ports have no exits since KVM coalesces their
        writes: the serial port's data register and PCI's address register.
        """
        at = _exit_address(reason, port, address)

        def answer(message: Mapping[str, Any]) -> int | None:
            return callback(self._exit(message))

        with self._callbacks.lock:
            number = self._ask("add_exit_hook", reason=reason, at=at)
            self._callbacks.add("hook", number, answer)

        def remove() -> None:
            self._ask("remove_exit_hook", hook=number)
            self._callbacks.remove("hook", number)

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
        """Inject a fault, now or at a later event.

        Into a vCPU before its next instruction: "exception" (with `vector` and `error_code`),
        "nmi", "triple-fault" or "machine-check". at=None injects into `vcpu` now; AtExit injects
        into the vCPU that exits.
        Into a request (AtRequest): "disk-error" (the guest sees EIO), "lost-interrupt" (the request
        completes without an interrupt), "bad-used" (the used ring gets an invalid descriptor id).
        """
        if isinstance(at, AtRequest):
            self._ask("fail_request", kind=kind, device=at.device, nth=at.nth)
            return
        exit_event = None
        if at is not None:
            address = _exit_address(at.reason, at.port, at.address)
            exit_event = {"reason": at.reason, "at": address, "nth": at.nth}
        arguments = {"vector": vector, "error_code": error_code}
        self._ask("inject_fault", kind=kind, vcpu=vcpu, exit=exit_event, **arguments)

    # -- devices ---------------------------------------------------------------------------

    def add_port_device(
        self, port: int, length: int, device: PortHandler, *, irq: int | None = None
    ) -> Callable[[], object]:
        """Let an object of the test answer `length` ports from `port` on.

        The guest may be running. irq: the device's interrupt line. Returns a function that pulses
        the line.
        """
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
        """Add a device that the test emulates.

        A PCI function needs a guest that has not started.
        """
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
        """Add a device and its handler. Returns the machine's number for it."""
        with self._callbacks.lock:
            number = int(self._ask(operation, **arguments))
            self._callbacks.add("device", number, answer)
        return number


def _exit_address(reason: str, port: int | None, address: int | None) -> int | None:
    """The port of an "io" exit or the address of an "mmio" exit, None for any."""
    if (port is not None and reason != "io") or (address is not None and reason != "mmio"):
        raise ValueError(
            f'port= requires the reason "io", address= requires "mmio": the reason is {reason!r}'
        )
    return address if port is None else port
