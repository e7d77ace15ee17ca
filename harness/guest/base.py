"""The base class of guests: a machine with a console, a boot timeline and an end."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from harness.errors import GuestEnded, HarnessError, ProcessEnded, hide_frames
from harness.guest.callbacks import Callbacks
from harness.guest.console import Console
from harness.guest.timeline import Timeline
from harness.guest.vm import VirtualMachine
from harness.hypervisors.base import EmulatedDevice, End, Events, Machine
from harness.hypervisors.capabilities import (
    SupportsBalloon,
    SupportsCgroup,
    SupportsExitLimit,
    SupportsIntrospection,
)

__tracebackhide__ = hide_frames
STOP_TIMEOUT = 5.0  # seconds


class ExpectedEnd:
    """The value of `expect_end`. `end` is available after the with block."""

    def __init__(self) -> None:
        self._end: End | None = None

    @property
    def end(self) -> End:
        """How the guest ended. Raises ValueError within the with block."""
        if self._end is None:
            raise ValueError("the guest has not ended yet: read `end` after the with block")
        return self._end


class BaseSpec(Protocol):
    """The fields that GuestSpec and PayloadSpec share."""

    @property
    def name(self) -> str: ...
    @property
    def vcpus(self) -> int: ...
    @property
    def memory(self) -> int: ...
    @property
    def devices(self) -> Sequence[EmulatedDevice]: ...


class BaseGuest:
    """See Guest and PayloadGuest.

    Args:
        spec: what the guest consists of.
        create: creates the machine; raises ProvisionError with stage "create".
        console: the file for console lines, None for no file.
        timeline: the boot stages; a new Timeline by default.
    """

    def __init__(
        self,
        spec: BaseSpec,
        create: Callable[[Events], Machine],
        console: Path | None,
        timeline: Timeline | None = None,
    ) -> None:
        self.name = spec.name
        self._vcpus, self._memory = spec.vcpus, spec.memory
        self.console = Console(console)
        self.timeline = timeline or Timeline()
        self.ended = threading.Event()
        self.end: End | None = None
        self.end_expected = False
        self._changed = threading.Condition()
        self.callbacks = Callbacks(self.name)
        events = Events(self._on_console, self._on_mark, self._on_end, self.callbacks.enqueue)
        try:
            self.machine = create(events)
            self._add_devices(spec.devices)
        except BaseException as error:
            if isinstance(error, HarnessError):
                error.guest = error.guest or self.name
                error.console = error.console or tuple(self.console.tail())
            self.console.close()
            raise

    def _add_devices(self, devices: Sequence[EmulatedDevice]) -> None:
        """Add the test's devices before the first instruction, then resume the machine."""
        if not devices:
            return
        try:
            for device in devices:
                self.vm.add_device(device)
            self.vm.resume()
        except BaseException:
            self.stop()
            raise

    # -- events, on the hypervisor's reader thread --------------------------------------------

    def _on_console(self, time_ns: int, text: str) -> None:
        self.console.add(time_ns, text)

    def _on_mark(self, stage: str, time_ns: int) -> None:
        self.timeline.mark(stage, time_ns)
        self._notify()

    def _on_end(self, end: End) -> None:
        self.end = end
        self.ended.set()
        self.callbacks.close()
        self._notify()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    # -- life cycle --------------------------------------------------------------------------

    def stop(self) -> None:
        """End the guest at once, without a shutdown. Idempotent.

        Raises HarnessError (stage "teardown") when the guest still runs afterwards.
        """
        if not self.ended.is_set():
            self.end_expected = True
        stop_error: HarnessError | None = None
        try:
            self.machine.stop(STOP_TIMEOUT)
        except HarnessError as error:
            stop_error = error
        if not self.ended.wait(STOP_TIMEOUT):
            raise HarnessError(
                f"the guest still runs after stop(): {dict(self.facts)}",
                hint="kill the process with this pid by hand",
                stage="teardown",
                guest=self.name,
            ) from stop_error
        self.console.close()

    def wait_end(self, timeout: float = 30.0) -> End:
        """Wait for an expected end.

        Raises HarnessError after `timeout` seconds, and any exception of a callback.
        """
        self.end_expected = True
        in_time = self.ended.wait(timeout)
        self.callbacks.raise_error()
        if not in_time or self.end is None:
            self.end_expected = False
            raise HarnessError(
                f"the guest did not end within {timeout:g} s",
                hint="raise the timeout, or read the console to see what the guest does",
                stage="run",
                guest=self.name,
                console=self.console.tail(),
            )
        return self.end

    @contextlib.contextmanager
    def expect_end(self, reason: str | None = None, timeout: float = 30.0) -> Iterator[ExpectedEnd]:
        """Expect that the with block ends the guest, so that the test does not fail for it.

        reason: the required End.reason, None for any. timeout: seconds to wait after the block. A
        GuestEnded of this guest that the block raises is suppressed. Raises GuestEnded for another
        reason, HarnessError when the guest does not end.

            with guest.expect_end("panic") as expected:
                guest.ssh.run("echo c > /proc/sysrq-trigger")
            assert "sysrq" in expected.end.detail
        """
        expected = ExpectedEnd()
        self.end_expected = True
        try:
            yield expected
        except GuestEnded as error:
            if error.guest != self.name:
                self.end_expected = self.ended.is_set()
                raise
        except BaseException:
            self.end_expected = self.ended.is_set()
            raise
        end = self.wait_end(timeout)
        if reason is not None and end.reason != reason:
            self.end_expected = False
            raise self.ended_error(f"expected {reason!r}")
        expected._end = end

    # -- state -------------------------------------------------------------------------------

    @property
    def facts(self) -> Mapping[str, Any]:
        """The machine's facts, with the guest's name, vcpus and memory (MiB)."""
        facts = {"name": self.name, "vcpus": self._vcpus, "memory": self._memory}
        return {**facts, **self.machine.facts}

    @property
    def cgroup(self) -> str:
        """The directory of its cgroup on the host; "" without one."""
        return self.machine.cgroup if isinstance(self.machine, SupportsCgroup) else ""

    @property
    def ended_unexpectedly(self) -> bool:
        """True when it ended and no test expected that."""
        return self.ended.is_set() and not self.end_expected

    @cached_property
    def vm(self) -> VirtualMachine:
        """VM introspection: registers, memory, exits and devices.

        Raises HarnessError when the hypervisor has no introspection.
        """
        if not isinstance(self.machine, SupportsIntrospection):
            raise self._missing_capability("introspection")
        ask = self.machine.ask
        self.callbacks.ask = ask
        return VirtualMachine(self._checked(ask), self.callbacks, self._vcpus)

    def _checked(self, ask: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `ask` to raise the errors of callbacks, and GuestEnded after the guest's end."""

        def ask_or_raise(operation: str, **arguments: Any) -> Any:
            self.callbacks.raise_error()
            self.check_alive()
            try:
                return ask(operation, **arguments)
            except HarnessError as error:
                self.callbacks.raise_error()
                if isinstance(error, ProcessEnded) and self.ended.wait(0.5):
                    raise self.ended_error(f"it ended before it answered {operation!r}") from error
                raise

        return ask_or_raise

    def statistics(self) -> dict[str, int]:
        """KVM's and the VMM's counters; see Machine.statistics. Raises GuestEnded after its end."""
        self.check_alive()
        try:
            return self.machine.statistics()
        except HarnessError as error:
            if self.ended.wait(0.5):
                raise self.ended_error("it ended while its statistics were read") from error
            raise

    def balloon(self, mib: int | None = None) -> dict[str, int]:
        """Set the target size of the memory balloon; None only refreshes its statistics.

        The guest inflates the balloon page by page, so "balloon_actual" follows the target later.
        The host can use the memory in the balloon.

        Returns "balloon_target" and "balloon_actual" (MiB), "balloon_reported" (bytes returned by
        free page reporting), and the guest's own statistics in bytes, such as
        "balloon_free_memory" and "balloon_available_memory". statistics() has the last values.
        Raises HarnessError when the machine has no balloon, GuestEnded after the guest's end.
        """
        self.check_alive()
        if not isinstance(self.machine, SupportsBalloon):
            raise self._missing_capability("balloon that the harness controls")
        return self.machine.balloon(mib)

    def limit_exits(self, limit: int) -> None:
        """Set the rate of exits to user space that counts as an exit storm and ends the guest.

        limit: exits per second, sustained; 0 for no limit. A booted guest needs few such exits, so
        this limit can be far below GuestSpec.exit_limit. Raises HarnessError when the machine has
        no such limit.
        """
        self.check_alive()
        if not isinstance(self.machine, SupportsExitLimit):
            raise self._missing_capability("limit of exits")
        self.machine.limit_exits(limit)

    def _missing_capability(self, capability: str) -> HarnessError:
        return HarnessError(
            f"a machine of {self.facts.get('vmm', 'this hypervisor')} has no {capability}",
            hint="run this test with --hypervisor=kvm, the built-in VMM",
            guest=self.name,
        )

    def check_alive(self) -> None:
        """Raise GuestEnded if the guest has ended."""
        if self.ended.is_set():
            raise self.ended_error()

    def ended_error(self, during: str = "") -> GuestEnded:
        """The error for its end. during: what the end interrupted."""
        cause = describe_end(self.end)
        if during:
            cause += f" ({during})"
        stage = self.timeline.next_stage or "run"
        return GuestEnded(
            cause,
            hint="read its console; docs/reference.md says what each end means",
            stage=stage,
            guest=self.name,
            console=self.console.tail(),
        )


def describe_end(end: End | None) -> str:
    """Format an end as one line: "panic: Kernel panic - not syncing: ..."."""
    if end is None:
        return "still running"
    return f"{end.reason}: {end.detail}" if end.detail else end.reason
