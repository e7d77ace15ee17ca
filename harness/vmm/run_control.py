"""The pause protocol of one vCPU: other threads stop its thread between two instructions."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from fcntl import ioctl
from typing import Callable

from harness.kvm import ioctls, structs
from harness.kvm.errors import MachineEnd
from harness.kvm.vcpu import Vcpu

KICK_SIGNAL = signal.SIGUSR1  # makes KVM_RUN return with EINTR
_PAUSE_TIMEOUT = 10.0  # seconds


class RunControl:
    """Decides whether a vCPU's thread may enter the guest.

    thread: the vCPU's thread, once it was started. in_callback: the thread waits for an answer from
    outside, see callback_wait(). changed: notified when any of this state changes.
    """

    def __init__(self, vcpu: Vcpu) -> None:
        self._vcpu = vcpu
        self.thread: threading.Thread | None = None
        self.in_callback = False
        self.changed = threading.Condition()
        self._stop_requested = False
        self._pause_requested = False
        self._parked = True  # the thread cannot enter the guest
        self._deferred: list[Callable[[], None]] = []

    @property
    def paused(self) -> bool:
        """A pause was requested, and no resume() followed."""
        return self._pause_requested

    # called by other threads

    def stop(self) -> None:
        """Make the thread leave the guest soon and end."""
        with self.changed:
            self._stop_requested = True
            self.changed.notify_all()
        self._leave_guest()

    def request_pause(self) -> None:
        """Make the thread leave the guest soon and wait for resume(). Returns at once."""
        with self.changed:
            self._pause_requested = True
        self._leave_guest()

    def pause(self) -> None:
        """Request a pause and wait until the thread has left the guest.

        Afterwards no instruction is half done, and the registers can be read and set. While
        `in_callback` holds, an access is pending: set registers through defer(). Must not be called
        on the vCPU's own thread. Raises TimeoutError if a device blocks the vCPU.
        """
        self.request_pause()
        with self.changed:
            left = self.changed.wait_for(lambda: self._parked or self.in_callback, _PAUSE_TIMEOUT)
            if not left:
                raise TimeoutError(
                    f"vCPU {self._vcpu.index} did not pause within {_PAUSE_TIMEOUT:g} s: "
                    "a device blocks it"
                )

    def resume(self) -> None:
        """Continue after pause(). Does nothing if the vCPU is not paused."""
        if not self._pause_requested:
            return
        with contextlib.suppress(OSError):  # EINVAL: the guest does not use kvmclock
            ioctl(self._vcpu.fd, ioctls.KVMCLOCK_CTRL)
        with self.changed:
            self._pause_requested = False
            self._set_immediate_exit(self._stop_requested or bool(self._deferred))
            self.changed.notify_all()

    def defer(self, action: Callable[[], None]) -> None:
        """Run `action` on the vCPU's thread before the guest's next instruction.

        The access that is pending completes first: KVM would lose its result if registers were set
        before.
        """
        self._deferred.append(action)
        self._set_immediate_exit(True)

    def _leave_guest(self) -> None:
        # The flag also covers a thread that is about to enter: KVM_RUN completes the pending access
        # and then reads the flag.
        self._set_immediate_exit(True)
        if self.thread and self.thread.ident and self.thread.is_alive():
            signal.pthread_kill(self.thread.ident, KICK_SIGNAL)

    def _set_immediate_exit(self, value: bool) -> None:
        self._vcpu.run[structs.RUN_IMMEDIATE_EXIT] = int(value)

    # called by the vCPU's thread

    def park(self) -> None:
        """Run deferred actions, then wait while a pause is requested. Raises MachineEnd after
        stop()."""
        while self._deferred:
            self._deferred.pop(0)()
        with self.changed:
            self._set_immediate_exit(self._stop_requested or self._pause_requested)
            self._parked = True
            self.changed.notify_all()
            self.changed.wait_for(lambda: self._stop_requested or not self._pause_requested)
            if self._stop_requested:
                raise MachineEnd("stopped")
            self._parked = False

    def pause_own_thread(self) -> None:
        """Request a pause that the next park() obeys."""
        with self.changed:
            self._pause_requested = True

    def finish(self) -> None:
        """Mark the thread as ended, so that no pause waits for it."""
        with self.changed:
            self._parked = True
            self.changed.notify_all()

    @contextlib.contextmanager
    def callback_wait(self) -> Iterator[None]:
        """The thread waits for an answer from outside, so a pause does not wait for the thread."""
        with self.changed:
            self.in_callback = True
            self.changed.notify_all()
        try:
            yield
        finally:
            self.in_callback = False
