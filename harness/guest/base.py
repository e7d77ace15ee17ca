"""A machine that is watched from its making to its end: what all guests have in common."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from harness.errors import GuestEnded, HarnessError, hide_frames
from harness.guest.callbacks import Callbacks
from harness.guest.console import Console
from harness.guest.timeline import Timeline
from harness.guest.vm import VirtualMachine
from harness.hypervisors.base import EmulatedDevice, End, Events, Machine
from harness.hypervisors.capabilities import (
    SupportsBalloon,
    SupportsExitLimit,
    SupportsIntrospection,
)

__tracebackhide__ = hide_frames
STOP_TIMEOUT = 5.0


class ExpectedEnd:
    """What `expect_end` gives: `end` is set when the guest has come to it."""

    def __init__(self) -> None:
        self._end: End | None = None

    @property
    def end(self) -> End:
        if self._end is None:
            raise ValueError("the guest has not ended yet: read this after the with block")
        return self._end


class Spec(Protocol):
    """What is known of any guest before it is made."""

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

    Raises what `create` raises: ProvisionError, with stage "create".
    """

    def __init__(
        self,
        spec: Spec,
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
        events = Events(self._on_console, self._on_mark, self._on_end, self.callbacks.put)
        try:
            self.machine = create(events)
            self._attach(spec.devices)
        except HarnessError as error:
            error.guest = error.guest or self.name
            error.console = error.console or tuple(self.console.tail())
            raise
        finally:
            if not hasattr(self, "machine"):
                self.console.close()

    def _attach(self, devices: Sequence[EmulatedDevice]) -> None:
        """Give it the test's own devices, before its first instruction."""
        if not devices:
            return
        try:
            for device in devices:
                self.vm.add_device(device)
            self.vm.resume()
        except BaseException:
            self.stop()
            raise

    # -- what the hypervisor tells, on its reader thread ------------------------------------

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

    # -- life ------------------------------------------------------------------------------

    def stop(self) -> None:
        """End it (the plug, not the power button). Idempotent.

        Raises HarnessError (stage "teardown") when it still runs afterwards.
        """
        if not self.ended.is_set():
            self.end_expected = True
        trouble: HarnessError | None = None
        try:
            self.machine.stop(STOP_TIMEOUT)
        except HarnessError as error:
            trouble = error
        if not self.ended.wait(STOP_TIMEOUT):
            raise HarnessError(
                f"it still runs after being stopped: {dict(self.facts)}",
                hint="end the process named here by hand",
                stage="teardown",
                guest=self.name,
            ) from trouble
        self.console.close()

    def wait_end(self, timeout: float = 30.0) -> End:
        """Wait for an end that the test wants. Raises HarnessError after `timeout` seconds, and
        what a callback raised."""
        self.end_expected = True
        in_time = self.ended.wait(timeout)
        self.callbacks.raise_error()
        if not in_time or self.end is None:
            self.end_expected = False
            raise HarnessError(
                f"it did not end within {timeout:g} s",
                stage="run",
                guest=self.name,
                console=self.console.tail(),
            )
        return self.end

    @contextlib.contextmanager
    def expect_end(self, reason: str | None = None, timeout: float = 30.0) -> Iterator[ExpectedEnd]:
        """The block makes the guest end; the test does not fail for it.

        reason: the End.reason that it must have. timeout: seconds to wait after the block. The
        GuestEnded of this guest that the block may raise is taken. Raises GuestEnded for another
        reason, HarnessError when the guest goes on.

            with guest.expect_end("panic") as gone:
                guest.ssh.run("echo c > /proc/sysrq-trigger")
            assert "sysrq" in gone.end.detail
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

    # -- what is known of it ----------------------------------------------------------------

    @property
    def facts(self) -> Mapping[str, Any]:
        """How it is built: the machine's own facts, with name, vcpus and memory (MiB)."""
        own = {"name": self.name, "vcpus": self._vcpus, "memory": self._memory}
        return {**own, **self.machine.facts}

    @property
    def ended_unexpectedly(self) -> bool:
        return self.ended.is_set() and not self.end_expected

    @cached_property
    def vm(self) -> VirtualMachine:
        """Its registers, memory, exits and devices: what a test can reach into.

        Raises HarnessError where its hypervisor does not let anybody.
        """
        if not isinstance(self.machine, SupportsIntrospection):
            raise HarnessError(
                f"a machine of {self.facts.get('vmm', 'this hypervisor')} has no introspection",
                hint="run this test with --hypervisor=kvm, the built-in VMM",
                guest=self.name,
            )
        ask = self.machine.ask
        self.callbacks.ask = ask
        return VirtualMachine(self._asking(ask), self.callbacks, self._vcpus)

    def _asking(self, ask: Callable[..., Any]) -> Callable[..., Any]:
        """`ask`, with the guest's end and what its callbacks raised told as what they are."""

        def asked(operation: str, **arguments: Any) -> Any:
            self.callbacks.raise_error()
            self.check_alive()
            try:
                return ask(operation, **arguments)
            except HarnessError as error:
                self.callbacks.raise_error()
                if "is gone" in error.cause and self.ended.wait(0.5):
                    raise self.ended_error(f"before it answered {operation!r}") from error
                raise

        return asked

    def statistics(self) -> dict[str, int]:
        """KVM's and the VMM's counters; see Machine.statistics. Raises GuestEnded when ended."""
        self.check_alive()
        try:
            return self.machine.statistics()
        except HarnessError as error:
            if self.ended.wait(0.5):
                raise self.ended_error("it ended while its statistics were read") from error
            raise

    def balloon(self, mib: int | None = None) -> dict[str, int]:
        """Ask the guest to put `mib` MiB of its memory into the balloon, for the host to use; it
        takes them one by one, so look at "balloon_actual" again. Without `mib`, have it tell its
        statistics anew.

        Returns "balloon_target" and "balloon_actual" (MiB), "balloon_reported" (bytes that it gave
        back on its own), and what it says of itself: "balloon_free_memory",
        "balloon_available_memory" (bytes), ...; statistics() has the same as told last. Raises
        HarnessError when the machine has no balloon, GuestEnded when the guest has ended.
        """
        self.check_alive()
        if not isinstance(self.machine, SupportsBalloon):
            raise HarnessError(
                "this hypervisor's machines have no balloon that the harness controls",
                hint="run this test with --hypervisor=kvm, the built-in VMM",
                guest=self.name,
            )
        return self.machine.balloon(mib)

    def limit_exits(self, limit: int) -> None:
        """From now on more exits to user space a second than that, sustained, are an exit storm and
        end the guest; 0 for no limit. A guest that is up needs none, so this can be far below what
        it was given to boot (exit_limit). Raises HarnessError for another VMM than the built-in.
        """
        self.check_alive()
        if not isinstance(self.machine, SupportsExitLimit):
            raise HarnessError(
                "this hypervisor's machines have no limit of exits",
                hint="run this test with --hypervisor=kvm, the built-in VMM",
                guest=self.name,
            )
        self.machine.limit_exits(limit)

    def check_alive(self) -> None:
        """Raises GuestEnded when the guest has ended."""
        if self.ended.is_set():
            raise self.ended_error()

    def ended_error(self, during: str = "") -> GuestEnded:
        """The error that says how it ended."""
        cause = describe_end(self.end)
        if during:
            cause += f" ({during})"
        stage = self.timeline.next_stage or "run"
        return GuestEnded(cause, stage=stage, guest=self.name, console=self.console.tail())


def describe_end(end: End | None) -> str:
    """An end in one line: "panic: Kernel panic - not syncing: ..."."""
    if end is None:
        return "still running"
    return f"{end.reason}: {end.detail}" if end.detail else end.reason
