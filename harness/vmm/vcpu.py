"""One vCPU's thread: its run loop, pauses and steps."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from fcntl import ioctl
from typing import Callable

from harness.kvm import ioctls, libc, structs
from harness.kvm.errors import MachineEnd
from harness.kvm.vcpu import Vcpu
from harness.kvm.vm import Vm

from .devices.bus import Buses, Device

KICK = signal.SIGUSR1
_PAUSE_TIMEOUT = 10.0  # seconds
_PR_SET_NAME = 15
_KNOWN_LIMIT = 256
_REASONS = 256  # of exits: a byte's, in which there is room for many more than KVM has


# What kvm_run says of a port access: whether it writes, size, port, how many, and words of that
# size, with the first one's index. Not by names: to unpack those takes several times as long.
_Access = tuple[int, int, int, int, memoryview, int]


class _Accesses(dict[int, _Access]):
    """By the 8 bytes that tell them, each decoded once: a guest makes the same few again. Where the
    data lie is always the same (KVM_PIO_PAGE_OFFSET, asm/kvm.h)."""

    def __init__(self, words: dict[int, memoryview]) -> None:
        super().__init__()
        self._words = words

    def __missing__(self, told: int) -> _Access:
        if len(self) >= _KNOWN_LIMIT:
            self.clear()
        io = structs.RUN_IO.unpack_from(self._words[1], structs.RUN_UNION)
        is_write, size, port, count, offset = io
        self[told] = access = (is_write, size, port, count, self._words[size], offset // size)
        return access


class VcpuThread(Vcpu):
    """A vCPU and the thread that runs it.

    exits: how many to user space of each reason, counted by the run loop. asking: its thread waits
    in an `away` block. stepping: on its way through one instruction.
    """

    def __init__(self, vm: Vm, index: int, buses: Buses, pin: int = -1) -> None:
        """pin: the host's CPU to run on, -1 for any."""
        super().__init__(vm, index)
        self.pin = pin
        view = memoryview(self.run)
        # the same as words of so many bytes: what a port access moves, in one load or store
        self._words = {1: view, 2: view.cast("H"), 4: view.cast("I"), 8: view.cast("Q")}
        self.buses = buses
        # the buses as this vCPU sees them: whoever reaches in may stand before them
        self.pio: Device = buses.pio
        self.mmio: Device = buses.mmio
        # told of an exit that ends the machine, before it does
        self.before_end: Callable[[int], object] = lambda reason: None
        self.exits = [0] * _REASONS
        self.thread: threading.Thread | None = None
        self._stopping = False
        self._pausing = False
        self._parked = True  # no thread is on its way into the guest
        self.asking = False
        self.stepping = False
        self._later: list[Callable[[], None]] = []
        self._changed = threading.Condition()

    def start(self, ended: Callable[[BaseException], None]) -> None:
        """Run in a thread of its own; `ended` gets what ended it, once."""

        def body() -> None:
            try:
                libc.prctl(_PR_SET_NAME, name.encode())
                if self.pin >= 0:
                    os.sched_setaffinity(0, {self.pin})  # of this thread alone
                self.loop()
            except BaseException as error:
                ended(error)
            finally:
                with self._changed:
                    self._parked = True
                    self._changed.notify_all()

        name = f"vcpu{self.index}"
        self.thread = threading.Thread(target=body, name=name, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Leave the guest soon and end the loop (from another thread)."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._leave()

    def ask_pause(self) -> None:
        """Leave the guest soon and wait there for resume(); does not wait itself."""
        with self._changed:
            self._pausing = True
        self._leave()

    def pause(self) -> None:
        """Leave the guest and wait there for resume(). When this returns, no instruction is half
        done and the state is to be read and set; of one that is `asking`, see later(). Not from the
        vCPU's own thread. Raises TimeoutError when a device keeps the vCPU."""
        self.ask_pause()
        with self._changed:
            out = self._changed.wait_for(lambda: self._parked or self.asking, _PAUSE_TIMEOUT)
            if not out:
                raise TimeoutError(f"vCPU {self.index} did not pause: a device keeps it")

    def resume(self) -> None:
        """Go on after pause(); nothing happens to one that runs."""
        if not self._pausing:
            return
        with contextlib.suppress(OSError):  # EINVAL: the guest has no kvmclock
            ioctl(self.fd, ioctls.KVMCLOCK_CTRL)
        with self._changed:
            self._pausing = False
            self.run[structs.RUN_IMMEDIATE_EXIT] = int(self._stopping or bool(self._later))
            self._changed.notify_all()

    def _leave(self) -> None:
        # for a thread that is on its way in, too: KVM_RUN first completes the access that is
        # pending, then looks at this
        self.run[structs.RUN_IMMEDIATE_EXIT] = 1
        if self.thread and self.thread.ident and self.thread.is_alive():
            signal.pthread_kill(self.thread.ident, KICK)

    def _park(self) -> None:
        """Wait for as long as a pause is wanted; raises the end that stop() wants."""
        while self._later:
            self._later.pop(0)()
        with self._changed:
            self.run[structs.RUN_IMMEDIATE_EXIT] = int(self._stopping or self._pausing)
            self._parked = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._stopping or not self._pausing)
            if self._stopping:
                raise MachineEnd("stopped")
            self._parked = False

    @property
    def paused(self) -> bool:
        """A pause was asked for, and no resume() since."""
        return self._pausing

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Its thread waits for an answer from outside, and a pause need not wait for it."""
        with self._changed:
            self.asking = True
            self._changed.notify_all()
        try:
            yield
        finally:
            self.asking = False

    def later(self, action: Callable[[], None]) -> None:
        """Do it on the vCPU's thread before its next instruction, once the access is complete that
        it is about, or asks for: KVM loses that one's result when registers are set before."""
        self._later.append(action)
        self.run[structs.RUN_IMMEDIATE_EXIT] = 1

    def step(self, timeout: float) -> bool:
        """Run one instruction of a paused vCPU, or go on with one that was not done. False if it is
        not done within `timeout` seconds, or asks for an answer first."""
        if not self.stepping:
            self.single_step(True)
            self.stepping = True
            self.resume()
        with self._changed:
            self._changed.wait_for(lambda: not self.stepping or self.asking, timeout)
            return not self.stepping

    def cancel_step(self) -> None:
        """Pause within a step that does not end."""
        self.pause()
        self.single_step(False)
        self.stepping = False

    def _stepped(self) -> None:
        """A step's exit: wait again."""
        if not self.stepping:
            self._end(ioctls.EXIT_DEBUG)
        self.single_step(False)
        with self._changed:
            self._pausing, self.stepping = True, False
        self._park()

    def loop(self) -> None:
        """Run until the machine ends; raises what ended it (MachineEnd, GuestFault).

        A port access is served here: beside an exit a call of a function costs some percent, be it
        Python's or C's, and hence no "with", no range() and no to_bytes().
        """
        self._park()
        run, words = self._words[1], self._words[8]
        fd, request, exits = self.fd, ioctls.RUN, self.exits
        reason_at, told_at, io = structs.RUN_EXIT_REASON, structs.RUN_UNION // 8, ioctls.EXIT_IO
        accesses, ring, drain = _Accesses(self._words), self.buses.ring, self.buses.drain
        acquire, release = self.buses.lock.acquire, self.buses.lock.release
        handlers = {ioctls.EXIT_MMIO: self._mmio, ioctls.EXIT_DEBUG: self._stepped}
        while True:
            try:
                # without an argument: fcntl tries each kind of buffer before it takes a number
                ioctl(fd, request)
            except InterruptedError:
                self._park()
                continue
            except BlockingIOError:  # EAGAIN: an application processor not yet started
                continue
            reason = run[reason_at]
            exits[reason] += 1
            if reason == io:
                is_write, size, port, count, values, at = accesses[words[told_at]]
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
                self._end(reason)

    def _mmio(self) -> None:
        address, data, length, is_write = structs.RUN_MMIO.unpack_from(self.run, structs.RUN_UNION)
        with self.buses.lock:
            self.buses.drain()
            if is_write:
                self.mmio.write(address, length, int.from_bytes(data[:length], "little"))
            else:
                value = self.mmio.read(address, length)
                at = structs.RUN_UNION + 8
                self.run[at : at + length] = value.to_bytes(length, "little")

    def _end(self, reason: int) -> None:
        """The exits that end a machine."""
        name = ioctls.EXIT_NAMES.get(reason, str(reason))
        with self.buses.lock:
            self.buses.drain()  # a reset may still wait there, and was first
            self.before_end(reason)
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
