"""Debug control of one vCPU: it executes one instruction and pauses again."""

from __future__ import annotations

from harness.kvm.vcpu import Vcpu

from .run_control import RunControl


class SingleStepper:
    """active: the vCPU executes the one instruction."""

    def __init__(self, vcpu: Vcpu, run_control: RunControl) -> None:
        self._vcpu = vcpu
        self._run_control = run_control
        self.active = False

    def step(self, timeout: float) -> bool:
        """Execute one instruction of a paused vCPU, or continue a step that is still active.

        timeout: seconds. Returns False if the instruction does not complete in that time, or if it
        waits for a callback's answer first.
        """
        if not self.active:
            self._vcpu.single_step(True)
            self.active = True
            self._run_control.resume()
        changed = self._run_control.changed
        with changed:
            changed.wait_for(lambda: not self.active or self._run_control.in_callback, timeout)
            return not self.active

    def cancel(self) -> None:
        """Pause during a step that does not complete."""
        self._run_control.pause()
        self._vcpu.single_step(False)
        self.active = False

    def complete(self) -> None:
        """Handle the exit that follows the instruction, on the vCPU's thread."""
        self._vcpu.single_step(False)
        # in this order: another thread that sees the step complete finds the vCPU paused
        self._run_control.pause_own_thread()
        self.active = False
        self._run_control.park()
