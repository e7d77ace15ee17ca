"""A guest: a machine that is watched from its making to its end, with SSH in between."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from harness.errors import GuestEnded, HarnessError, ProvisionError, SSHError, hide_frames
from harness.guest.console import Console
from harness.guest.credentials import SSHLate, SSHRefused
from harness.guest.link import GuestSSH
from harness.guest.timeline import Timeline
from harness.hypervisors.base import End, Events, GuestSpec, Hypervisor, Machine

__tracebackhide__ = hide_frames
_FAILED = re.compile(r"harness: failed: (.*)")
_PANIC = re.compile(r"Kernel panic - not syncing.*")
# Ends that a panicking kernel itself causes (panic=-1 reboot=t): the console knows better.
_AFTER_PANIC = ("panic", "reset", "triple-fault", "power-off")
STOP_TIMEOUT = 5.0


class Expected:
    """What `expect_end` gives: `end` is set when the guest has come to it."""

    def __init__(self) -> None:
        self._end: End | None = None

    @property
    def end(self) -> End:
        if self._end is None:
            raise ValueError("the guest has not ended yet: read this after the with block")
        return self._end


class Guest:
    """A running virtual machine with a console, an SSH session and a life cycle.

    Attributes:
        name, spec: as it was ordered.
        console: its console lines. timeline: when it reached which stage.
        ended: set when it came to its end; `end` then says how.
        ssh: commands in it, once it is ready.
        machine: the hypervisor's side of it.

    Raises what the hypervisor's create() raises: ProvisionError, with stage "create".
    """

    def __init__(
        self, hypervisor: Hypervisor, spec: GuestSpec, *, console: Path | None = None
    ) -> None:
        self.name = spec.name
        self.spec = spec
        self.console = Console(console)
        self.timeline = Timeline()
        self.ended = threading.Event()
        self.end: End | None = None
        self.expected = False
        self.ssh = GuestSSH(self)
        self._changed = threading.Condition()
        self._failure = ""
        self._born = time.monotonic()
        events = Events(self._on_console, self._on_mark, self._on_end)
        try:
            self.machine: Machine = hypervisor.create(spec, events)
        except HarnessError as error:
            error.guest = error.guest or self.name
            error.console = error.console or tuple(self.console.tail())
            raise
        finally:
            if not hasattr(self, "machine"):
                self.console.close()

    # -- what the hypervisor tells, on its reader thread ------------------------------------

    def _on_console(self, time_ns: int, text: str) -> None:
        self.console.add(time_ns, text)
        stage = self.timeline.read(time_ns, text)
        failed = _FAILED.search(text)
        if failed and not self._failure:
            self._failure = failed[1]
        if stage or failed:
            self._notify()

    def _on_mark(self, stage: str, time_ns: int) -> None:
        self.timeline.mark(stage, time_ns)
        self._notify()

    def _on_end(self, end: End) -> None:
        if end.reason in _AFTER_PANIC and (line := self.console.find("Kernel panic")):
            panic = _PANIC.search(line)
            end = replace(end, reason="panic", detail=panic[0] if panic else line)
        self.end = end
        self.ended.set()
        self._notify()
        # Closing a transport joins its thread: not on the thread that all guests' news come by.
        threading.Thread(target=self.ssh.cut, name=f"cut-{self.name}", daemon=True).start()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    # -- life ------------------------------------------------------------------------------

    def wait_ready(self) -> Self:
        """Wait until SSH is authenticated, at most spec.boot_timeout seconds since create.

        Raises ProvisionError naming the stage that was not reached, or what its init could not
        do; GuestEnded at once when the guest ends meanwhile; SSHError when a key is not accepted.
        """
        deadline = self._born + self.spec.boot_timeout
        with self._changed:
            self._changed.wait_for(
                lambda: self._failure or self.ended.is_set() or self.timeline.reached("sshd"),
                max(0.0, deadline - time.monotonic()),
            )
        self._check_boot()
        if not self.timeline.reached("sshd"):
            raise self._late()
        while True:
            try:
                self.ssh.connect(max(0.01, deadline - time.monotonic()))
                break
            except SSHRefused as error:
                # "Listening" and "accepting" are two moments; only refusals heal by waiting.
                self._check_boot(grace=0.05)
                if time.monotonic() >= deadline:
                    raise self._late(error) from error
            except SSHLate as error:
                self._check_boot(grace=0.5)
                raise self._late(error) from error
            except SSHError as error:
                # A wrong key stays wrong: no more time would help, and the mend is its own.
                self._check_boot(grace=0.5)
                error.stage, error.console = "ready", tuple(self.console.tail())
                raise
        self.timeline.mark("ready", self.timeline.here())
        return self

    def stop(self) -> None:
        """End it (the plug, not the power button). Idempotent.

        Raises HarnessError (stage "teardown") when it still runs afterwards.
        """
        if not self.ended.is_set():
            self.expected = True
        self.ssh.cut()
        trouble: HarnessError | None = None
        try:
            self.machine.stop(STOP_TIMEOUT)
        except HarnessError as error:
            trouble = error
        if not self.ended.wait(STOP_TIMEOUT):
            raise HarnessError(
                f"it still runs after being stopped: {dict(self.facts)}",
                mend="end the process named here by hand",
                stage="teardown",
                guest=self.name,
            ) from trouble
        self.console.close()

    def wait_end(self, timeout: float = 30.0) -> End:
        """Wait for an end that the test wants. Raises HarnessError after `timeout` seconds."""
        self.expected = True
        if not self.ended.wait(timeout) or self.end is None:
            self.expected = False
            raise HarnessError(
                f"it did not end within {timeout:g} s",
                stage="run",
                guest=self.name,
                console=self.console.tail(),
            )
        return self.end

    @contextlib.contextmanager
    def expect_end(self, reason: str | None = None, timeout: float = 30.0) -> Iterator[Expected]:
        """The block makes the guest end; the test does not fail for it.

        reason: the End.reason that it must have. timeout: seconds to wait after the block. The
        GuestEnded of this guest that the block may raise is taken. Raises GuestEnded for another
        reason, HarnessError when the guest goes on.

            with guest.expect_end("panic") as gone:
                guest.ssh.run("echo c > /proc/sysrq-trigger")
            assert "sysrq" in gone.end.detail
        """
        expected = Expected()
        self.expected = True
        try:
            yield expected
        except GuestEnded as error:
            if error.guest != self.name:
                self.expected = self.ended.is_set()
                raise
        except BaseException:
            self.expected = self.ended.is_set()
            raise
        end = self.wait_end(timeout)
        if reason is not None and end.reason != reason:
            self.expected = False
            raise self.ended_error(f"expected {reason!r}")
        expected._end = end

    # -- what is known of it ----------------------------------------------------------------

    @property
    def facts(self) -> Mapping[str, Any]:
        """How it is built: the machine's own facts, with name, vcpus and memory (MiB)."""
        own = {"name": self.name, "vcpus": self.spec.vcpus, "memory": self.spec.memory}
        return {**own, **self.machine.facts}

    @property
    def ended_unexpectedly(self) -> bool:
        return self.ended.is_set() and not self.expected

    def statistics(self) -> dict[str, int]:
        """KVM's and the VMM's counters; see Machine.statistics. Raises GuestEnded when ended."""
        self.check_alive()
        try:
            return self.machine.statistics()
        except HarnessError as error:
            if self.ended.wait(0.5):
                raise self.ended_error("it ended while its statistics were read") from error
            raise

    def check_alive(self) -> None:
        """Raises GuestEnded when the guest has ended."""
        if self.ended.is_set():
            raise self.ended_error()

    def ended_error(self, during: str = "") -> GuestEnded:
        """The error that says how it ended."""
        cause = describe(self.end)
        if during:
            cause += f" ({during})"
        stage = self.timeline.missing or "run"
        return GuestEnded(cause, stage=stage, guest=self.name, console=self.console.tail())

    def _check_boot(self, grace: float = 0.0) -> None:
        ended = self.ended.wait(grace)
        if self._failure:
            raise ProvisionError(
                f"its init failed: {self._failure}",
                mend="see the console; the image may not fit this kernel",
                stage=self.timeline.missing or "ready",
                guest=self.name,
                console=self.console.tail(),
            )
        if ended:
            raise self.ended_error("it ended while it booted")

    def _late(self, error: SSHError | None = None) -> ProvisionError:
        stage = self.timeline.missing or "ready"
        why = f": {error.cause}" if error else ""
        return ProvisionError(
            f"it did not reach {stage!r} within {self.spec.boot_timeout:g} s{why}",
            mend="see the console for where it hangs, or give more with --guest-boot-timeout",
            stage=stage,
            guest=self.name,
            console=self.console.tail(),
        )


def describe(end: End | None) -> str:
    """An end in one line: "panic: Kernel panic - not syncing: ..."."""
    if end is None:
        return "still running"
    return f"{end.reason}: {end.detail}" if end.detail else end.reason
