"""One vCPU: its registers and its run loop."""

from __future__ import annotations

import mmap
import signal
import struct
import threading
from fcntl import ioctl
from typing import Callable

from ..devices.bus import Buses
from ..errors import MachineEnd
from . import ioctls, structs
from .structs import Segment
from .vm import Vm

KICK = signal.SIGUSR1

_CODE32 = Segment(0, 0xFFFF_FFFF, 0x08, 0xB, 1, 0, 1, 1, 0, 1, 0, 0)
_DATA32 = Segment(0, 0xFFFF_FFFF, 0x10, 0x3, 1, 0, 1, 1, 0, 1, 0, 0)
_TSS32 = Segment(0, 0x67, 0x18, 0xB, 1, 0, 0, 0, 0, 0, 0, 0)
_CR0_PE = 1
_CR0_AT = len(structs.SEGMENT_NAMES) * structs.SEGMENT.size + 2 * structs.DTABLE.size


class Vcpu:
    """A vCPU and the thread that runs it.

    exits: exits to user space by reason, counted by the run loop.
    """

    def __init__(self, vm: Vm, index: int, buses: Buses) -> None:
        self.index = index
        self.fd = ioctl(vm.fd, ioctls.CREATE_VCPU, index)
        self.run = mmap.mmap(self.fd, vm.kvm.run_size)
        self.buses = buses
        self.exits: dict[int, int] = {}
        self.thread: threading.Thread | None = None
        self._stopping = False

    # state

    def set_protected_mode(self, entry: int, rbx: int) -> None:
        """32-bit protected mode, flat segments, no paging: the PVH start state
        (Xen docs/misc/pvh.pandoc, "x86/HVM direct boot ABI")."""
        buffer = bytearray(structs.SREGS_SIZE)
        ioctl(self.fd, ioctls.GET_SREGS, buffer)
        segments = {"cs": _CODE32, "tr": _TSS32}
        for position, name in enumerate(structs.SEGMENT_NAMES[:7]):
            segment = segments.get(name, _DATA32)
            structs.SEGMENT.pack_into(buffer, position * structs.SEGMENT.size, *segment)
        struct.pack_into("<Q", buffer, _CR0_AT, _CR0_PE)
        ioctl(self.fd, ioctls.SET_SREGS, buffer)
        self.set_registers({"rip": entry, "rbx": rbx, "rflags": 2})

    def registers(self) -> dict[str, int]:
        """The general registers by name (struct kvm_regs); the vCPU must not be running."""
        buffer = bytearray(structs.REGS.size)
        ioctl(self.fd, ioctls.GET_REGS, buffer)
        return dict(zip(structs.REGISTER_NAMES, structs.REGS.unpack(buffer)))

    def set_registers(self, values: dict[str, int]) -> None:
        """Set registers by name; those not named become 0."""
        packed = structs.REGS.pack(*(values.get(name, 0) for name in structs.REGISTER_NAMES))
        ioctl(self.fd, ioctls.SET_REGS, packed)

    # running

    def start(self, ended: Callable[[BaseException], None]) -> None:
        """Run in a thread of its own; `ended` gets what ended it, once."""

        def body() -> None:
            try:
                self.loop()
            except BaseException as error:
                ended(error)

        self.thread = threading.Thread(target=body, name=f"vcpu{self.index}", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Leave the guest soon and end the loop (from another thread)."""
        self._stopping = True
        self.run[structs.RUN_IMMEDIATE_EXIT] = 1
        if self.thread and self.thread.ident and self.thread.is_alive():
            signal.pthread_kill(self.thread.ident, KICK)

    def loop(self) -> None:
        """Run until the machine ends; raises what ended it (MachineEnd, GuestFault)."""
        run, fd, exits = self.run, self.fd, self.exits
        reason_at = structs.RUN_EXIT_REASON
        handlers = {ioctls.EXIT_IO: self._io, ioctls.EXIT_MMIO: self._mmio}
        while True:
            try:
                ioctl(fd, ioctls.RUN, 0)
            except InterruptedError:
                if self._stopping:
                    raise MachineEnd("stopped") from None
                continue
            except BlockingIOError:  # EAGAIN: an application processor not yet started
                continue
            # a byte is enough: reasons are below 256
            reason = run[reason_at]
            exits[reason] = exits.get(reason, 0) + 1
            handler = handlers.get(reason)
            if handler:
                handler()
            else:
                self._end(reason)

    def _io(self) -> None:
        run = self.run
        direction, size, port, count, at = structs.RUN_IO.unpack_from(run, structs.RUN_UNION)
        with self.buses.lock:
            self.buses.drain()
            for offset in range(at, at + size * count, size):
                if direction:
                    value = int.from_bytes(run[offset : offset + size], "little")
                    self.buses.pio_write(port, size, value)
                else:
                    value = self.buses.pio_read(port, size)
                    run[offset : offset + size] = value.to_bytes(size, "little")

    def _mmio(self) -> None:
        run = self.run
        address, data, length, is_write = structs.RUN_MMIO.unpack_from(run, structs.RUN_UNION)
        with self.buses.lock:
            self.buses.drain()
            if is_write:
                self.buses.mmio_write(address, length, int.from_bytes(data[:length], "little"))
            else:
                value = self.buses.mmio_read(address, length)
                at = structs.RUN_UNION + 8
                run[at : at + length] = value.to_bytes(length, "little")

    def _end(self, reason: int) -> None:
        """The exits that end a machine."""
        name = ioctls.EXIT_NAMES.get(reason, str(reason))
        with self.buses.lock:
            self.buses.drain()  # a reset may still wait there, and was first
        if reason == ioctls.EXIT_SHUTDOWN:
            raise MachineEnd("triple-fault", f"vCPU {self.index}")
        if reason == ioctls.EXIT_INTR:
            return
        detail = f"KVM exit {name} on vCPU {self.index}, rip {self.registers()['rip']:#x}"
        if reason == ioctls.EXIT_FAIL_ENTRY:
            (hardware,) = structs.RUN_HW_REASON.unpack_from(self.run, structs.RUN_UNION)
            detail += f", hardware reason {hardware:#x}"
        elif reason == ioctls.EXIT_INTERNAL_ERROR:
            suberror, _ = structs.RUN_INTERNAL.unpack_from(self.run, structs.RUN_UNION)
            detail += f", suberror {suberror}"
        raise MachineEnd("vmm-error", detail)
