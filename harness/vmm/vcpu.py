"""One vCPU's thread and its run loop."""

from __future__ import annotations

import os
import threading
from fcntl import ioctl
from typing import Callable

from harness.kvm import ioctls, libc, structs
from harness.kvm.errors import MachineEnd
from harness.kvm.vcpu import Vcpu
from harness.kvm.vm import Vm

from .devices.bus import Buses, Device
from .port_access import PortAccessCache
from .run_control import RunControl
from .single_step import SingleStepper

_PR_SET_NAME = 15
_EXIT_REASONS = 256  # the reason is read as one byte; KVM defines far fewer


class VcpuThread(Vcpu):
    """A vCPU and the thread that runs it.

    exits: exits to user space by reason, counted by the run loop. pio, mmio: the buses as this vCPU
    sees them; introspection replaces them to observe accesses. on_final_exit: called with the
    reason of an exit that ends the machine, before the machine ends.
    """

    def __init__(self, vm: Vm, index: int, buses: Buses, pin: int = -1) -> None:
        """pin: the host's CPU to run on, -1 for any."""
        super().__init__(vm, index)
        self.pin = pin
        view = memoryview(self.run)
        # a port access moves one such word, in one load or store
        self._words = {1: view, 2: view.cast("H"), 4: view.cast("I"), 8: view.cast("Q")}
        self.buses = buses
        self.pio: Device = buses.pio
        self.mmio: Device = buses.mmio
        self.on_final_exit: Callable[[int], object] = lambda reason: None
        self.exits = [0] * _EXIT_REASONS
        self.run_control = RunControl(self)
        self.stepper = SingleStepper(self, self.run_control)

    def start(self, on_end: Callable[[BaseException], None]) -> None:
        """Start the thread. on_end: called once, with the exception that ended the run loop."""

        def body() -> None:
            try:
                libc.prctl(_PR_SET_NAME, name.encode())
                if self.pin >= 0:
                    os.sched_setaffinity(0, {self.pin})  # of this thread alone
                self._run_loop()
            except BaseException as error:
                on_end(error)
            finally:
                self.run_control.finish()

        name = f"vcpu{self.index}"
        thread = threading.Thread(target=body, name=name, daemon=True)
        self.run_control.thread = thread
        thread.start()

    def _run_loop(self) -> None:
        """Run the guest until the machine ends. Raises MachineEnd or GuestFault.

        Port accesses are served in this function. A further call would cost some percent of an
        exit, in Python as in C: hence no "with", no range() and no to_bytes().
        """
        park = self.run_control.park
        park()
        run, words = self._words[1], self._words[8]
        fd, request, exits = self.fd, ioctls.RUN, self.exits
        reason_at, access_at, io = structs.RUN_EXIT_REASON, structs.RUN_UNION // 8, ioctls.EXIT_IO
        accesses, ring, drain = PortAccessCache(self._words), self.buses.ring, self.buses.drain
        acquire, release = self.buses.lock.acquire, self.buses.lock.release
        handlers = {ioctls.EXIT_MMIO: self._on_mmio_exit, ioctls.EXIT_DEBUG: self._on_debug_exit}
        while True:
            try:
                # without an argument: fcntl tries each kind of buffer before it takes a number
                ioctl(fd, request)
            except InterruptedError:
                park()
                continue
            except BlockingIOError:  # EAGAIN: an application processor that was not started
                continue
            reason = run[reason_at]
            exits[reason] += 1
            if reason == io:
                is_write, size, port, count, values, at = accesses[words[access_at]]
                acquire()
                try:
                    if ring[0] != ring[1]:
                        drain()
                    while True:
                        if is_write:
                            self.pio.write(port, size, values[at])
                        else:
                            values[at] = self.pio.read(port, size)
                        if count <= 1:
                            break
                        at, count = at + 1, count - 1
                finally:
                    release()
            elif reason in handlers:
                handlers[reason]()
            else:
                self._raise_end(reason)

    def _on_mmio_exit(self) -> None:
        address, data, length, is_write = structs.RUN_MMIO.unpack_from(self.run, structs.RUN_UNION)
        with self.buses.lock:
            self.buses.drain()
            if is_write:
                self.mmio.write(address, length, int.from_bytes(data[:length], "little"))
            else:
                value = self.mmio.read(address, length)
                at = structs.RUN_UNION + 8
                self.run[at : at + length] = value.to_bytes(length, "little")

    def _on_debug_exit(self) -> None:
        if self.stepper.active:
            self.stepper.complete()
        else:
            self._raise_end(ioctls.EXIT_DEBUG)

    def _raise_end(self, reason: int) -> None:
        """Raise the MachineEnd for an exit that ends the machine."""
        name = ioctls.EXIT_NAMES.get(reason, str(reason))
        with self.buses.lock:
            self.buses.drain()  # a reset may wait in the ring, and came first
            self.on_final_exit(reason)
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
