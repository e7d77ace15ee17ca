"""A guest: a machine that is watched from its making to its end, with SSH in between."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

from harness.errors import ProvisionError, SSHError, hide_frames
from harness.guest.base import BaseGuest
from harness.guest.guest_ssh import GuestSSH
from harness.guest.snapshot import Snapshot
from harness.guest.timeline import CLONE_STAGES, STAGES, Timeline
from harness.hypervisors.base import End, GuestSpec, Hypervisor
from harness.hypervisors.capabilities import SupportsClone
from harness.ssh.errors import SSHLate, SSHRefused

__tracebackhide__ = hide_frames
_FAILED = re.compile(r"harness: failed: (.*)")


class Guest(BaseGuest):
    """A running virtual machine with a console, an SSH session and a life cycle.

    Attributes:
        name, spec: as it was ordered.
        console: its console lines. timeline: when it reached which stage.
        ended: set when it came to its end; `end` then says how.
        ssh: commands in it, once it is ready.
        machine: the hypervisor's side of it. vm: what a test can reach into of it.
        hypervisor: what runs it. origin: the snapshot that it is a clone of, if it is one.

    Raises what the hypervisor's create() raises: ProvisionError, with stage "create".
    """

    def __init__(
        self,
        hypervisor: Hypervisor,
        spec: GuestSpec,
        *,
        console: Path | None = None,
        origin: Snapshot | None = None,
    ) -> None:
        self.spec = spec
        self.hypervisor = hypervisor
        self.origin = origin
        self.ssh = GuestSSH(self, spec.image)
        self._failure = ""
        self._cloned: dict[str, Any] = {}
        self._born = time.monotonic()
        create = partial(hypervisor.create, spec)
        if origin:
            if not isinstance(hypervisor, SupportsClone):
                raise ProvisionError(
                    f"the hypervisor {hypervisor.name} makes no clones",
                    hint="use --hypervisor=kvm",
                    stage="create",
                    guest=spec.name,
                )
            create = partial(hypervisor.clone, origin.folder, spec)
            self._cloned = {
                "cloned_from": origin.spec.name,
                "prefault_pages": sum(origin.prefault_pages[1::2]),
            }
            if origin.prefault_pages:
                create = partial(create, prefault_pages=origin.prefault_pages)
            elif origin.prefault_blocker:
                self._cloned["prefault_blocker"] = origin.prefault_blocker
        timeline = Timeline(stages=CLONE_STAGES if origin else STAGES)
        super().__init__(spec, create, console, timeline)

    # -- what the hypervisor tells, on its reader thread ------------------------------------

    def _on_console(self, time_ns: int, text: str) -> None:
        self.console.add(time_ns, text)
        stage = self.timeline.read_line(time_ns, text)
        failed = _FAILED.search(text)
        if failed and not self._failure:
            self._failure = failed[1]
        if stage or failed:
            self._notify()

    def _on_end(self, end: End) -> None:
        super()._on_end(end)
        # Closing a transport joins its thread: not on the thread that all guests' news come by.
        threading.Thread(target=self.ssh.disconnect, name=f"cut-{self.name}", daemon=True).start()

    # -- life ------------------------------------------------------------------------------

    def wait_ready(self) -> Self:
        """Wait until SSH is authenticated, at most spec.boot_timeout seconds since create.

        Raises ProvisionError naming the stage that was not reached, or what its init could not
        do; GuestEnded at once when the guest ends meanwhile; SSHError when a key is not accepted.
        """
        deadline = self._born + self.spec.boot_timeout
        with self._changed:
            self._changed.wait_for(
                lambda: self._failure or self.ended.is_set() or self._serves,
                max(0.0, deadline - time.monotonic()),
            )
        self._check_boot()
        if not self._serves:
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
                # A wrong key stays wrong: no more time would help, and the hint is its own.
                self._check_boot(grace=0.5)
                error.stage, error.console = "ready", tuple(self.console.tail())
                raise
        self.timeline.mark("ready", self.timeline.now())
        if self.origin:
            self.origin.record_dirty_pages(self.machine)
        return self

    @property
    def _serves(self) -> bool:
        """Whether its SSH server can be asked: not before a clone has an identity of its own."""
        return self.timeline.reached("adopted" if self.origin else "sshd")

    def snapshot(self) -> Snapshot:
        """Keep it as it is now, to make clones of. It settles and is paused: see Snapshot."""
        self.check_alive()
        return Snapshot(self.spec, self.machine, self.hypervisor)

    def stop(self) -> None:
        """See BaseGuest; its SSH session is closed first."""
        if not self.ended.is_set():
            self.end_expected = True
        self.ssh.disconnect()
        super().stop()

    @property
    def address(self) -> str | None:
        """Its IPv4 address in the guests' network; None where it is not in it."""
        return self.machine.facts.get("address")

    @property
    def facts(self) -> Mapping[str, Any]:
        """See BaseGuest. A clone has more: cloned_from names its origin, prefault_pages is the
        number of pages that were copied before it ran, prefault_blocker says why none could be."""
        return {**super().facts, **self._cloned}

    def _check_boot(self, grace: float = 0.0) -> None:
        ended = self.ended.wait(grace)
        if self._failure:
            raise ProvisionError(
                f"its init failed: {self._failure}",
                hint="see the console; the image may not fit this kernel",
                stage=self.timeline.next_stage or "ready",
                guest=self.name,
                console=self.console.tail(),
            )
        if ended:
            raise self.ended_error("it ended while it booted")

    def _late(self, error: SSHError | None = None) -> ProvisionError:
        stage = self.timeline.next_stage or "ready"
        why = f": {error.cause}" if error else ""
        return ProvisionError(
            f"it did not reach {stage!r} within {self.spec.boot_timeout:g} s{why}",
            hint="see the console for where it hangs, or give more with --guest-boot-timeout",
            stage=stage,
            guest=self.name,
            console=self.console.tail(),
        )
