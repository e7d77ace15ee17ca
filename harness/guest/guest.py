"""A guest that boots an image and is reached by SSH."""

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
_INIT_FAILURE = re.compile(r"harness: failed: (.*)")


class Guest(BaseGuest):
    """A running virtual machine with a console, an SSH session and a life cycle.

    Attributes:
        name, spec: what the guest consists of.
        console: its console lines. timeline: the times of its boot stages.
        ended: an event that is set at its end; `end` then describes the end.
        ssh: runs commands in a ready guest.
        machine: the hypervisor's machine. vm: VM introspection.
        hypervisor: creates and runs the machine. origin: the snapshot of which it is a clone, or
            None.

    Raises the errors of the hypervisor's create(): ProvisionError with stage "create".
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
        self._clone_facts: dict[str, Any] = {}
        self._created_at = time.monotonic()
        create = partial(hypervisor.create, spec)
        if origin:
            if not isinstance(hypervisor, SupportsClone):
                raise ProvisionError(
                    f"the hypervisor {hypervisor.name} has no clones",
                    hint="run this test with --hypervisor=kvm",
                    stage="create",
                    guest=spec.name,
                )
            create = partial(hypervisor.clone, origin.folder, spec)
            self._clone_facts = {
                "cloned_from": origin.spec.name,
                "prefault_pages": sum(origin.prefault_pages[1::2]),
            }
            if origin.prefault_pages:
                create = partial(create, prefault_pages=origin.prefault_pages)
            elif origin.prefault_blocker:
                self._clone_facts["prefault_blocker"] = origin.prefault_blocker
        timeline = Timeline(stages=CLONE_STAGES if origin else STAGES)
        super().__init__(spec, create, console, timeline)

    # -- events, on the hypervisor's reader thread --------------------------------------------

    def _on_console(self, time_ns: int, text: str) -> None:
        self.console.add(time_ns, text)
        stage = self.timeline.read_line(time_ns, text)
        failure = _INIT_FAILURE.search(text)
        if failure and not self._failure:
            self._failure = failure[1]
        if stage or failure:
            self._notify()

    def _on_end(self, end: End) -> None:
        super()._on_end(end)
        # A new thread, since disconnect() joins the transport's thread. This thread handles the
        # events of all guests.
        name = f"disconnect-{self.name}"
        threading.Thread(target=self.ssh.disconnect, name=name, daemon=True).start()

    # -- life cycle --------------------------------------------------------------------------

    def wait_ready(self) -> Self:
        """Wait until SSH is authenticated, at most spec.boot_timeout seconds since creation.

        Raises ProvisionError with the stage that was not reached or with the failure of its init,
        GuestEnded as soon as the guest ends, SSHError when a key is not accepted.
        """
        deadline = self._created_at + self.spec.boot_timeout
        with self._changed:
            self._changed.wait_for(
                lambda: self._failure or self.ended.is_set() or self._ssh_listens,
                max(0.0, deadline - time.monotonic()),
            )
        self._check_boot()
        if not self._ssh_listens:
            raise self._late()
        while True:
            try:
                self.ssh.connect(max(0.01, deadline - time.monotonic()))
                break
            except SSHRefused as error:
                # The server reports "sshd" shortly before it accepts. Only a refusal is worth a
                # retry.
                self._check_boot(grace=0.05)
                if time.monotonic() >= deadline:
                    raise self._late(error) from error
            except SSHLate as error:
                self._check_boot(grace=0.5)
                raise self._late(error) from error
            except SSHError as error:
                # A retry does not help: the key stays wrong. The error has its own hint.
                self._check_boot(grace=0.5)
                error.stage, error.console = "ready", tuple(self.console.tail())
                raise
        self.timeline.mark("ready", self.timeline.now())
        if self.origin:
            self.origin.record_dirty_pages(self.machine)
        return self

    @property
    def _ssh_listens(self) -> bool:
        """Whether SSH can connect. A clone first adopts its own identity."""
        return self.timeline.reached("adopted" if self.origin else "sshd")

    def snapshot(self) -> Snapshot:
        """Save its state for clones. The guest prepares, then is paused meanwhile; see Snapshot."""
        self.check_alive()
        return Snapshot(self.spec, self.machine, self.hypervisor)

    def stop(self) -> None:
        """See BaseGuest. The SSH session is closed first."""
        if not self.ended.is_set():
            self.end_expected = True
        self.ssh.disconnect()
        super().stop()

    @property
    def address(self) -> str | None:
        """Its IPv4 address in the guests' network, None outside of that network."""
        return self.machine.facts.get("address")

    @property
    def facts(self) -> Mapping[str, Any]:
        """See BaseGuest. A clone has three more facts.

        cloned_from: the name of its origin. prefault_pages: the number of pages that were copied
        before it ran. prefault_blocker: the reason why none were copied.
        """
        return {**super().facts, **self._clone_facts}

    def _check_boot(self, grace: float = 0.0) -> None:
        """Raise the error of a failed boot. grace: seconds to wait for the guest's end."""
        ended = self.ended.wait(grace)
        if self._failure:
            raise ProvisionError(
                f"the guest's init failed: {self._failure}",
                hint="read the console; check that the image fits this kernel",
                stage=self.timeline.next_stage or "ready",
                guest=self.name,
                console=self.console.tail(),
            )
        if ended:
            raise self.ended_error("it ended while it booted")

    def _late(self, error: SSHError | None = None) -> ProvisionError:
        """The error for a stage that was not reached in time."""
        stage = self.timeline.next_stage or "ready"
        reason = f": {error.cause}" if error else ""
        return ProvisionError(
            f"the guest did not reach {stage!r} within {self.spec.boot_timeout:g} s{reason}",
            hint="read the console to see where it hangs, or raise --guest-boot-timeout",
            stage=stage,
            guest=self.name,
            console=self.console.tail(),
        )
