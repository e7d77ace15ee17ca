"""The saved state of a guest on its host, from which clones continue."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from harness.errors import HarnessError, hide_frames
from harness.hypervisors.base import GuestSpec, Hypervisor, Machine
from harness.hypervisors.capabilities import SupportsDirtyPages, SupportsSnapshot

__tracebackhide__ = hide_frames
_numbers = itertools.count()


class Snapshot:
    """The result of `guest.snapshot()`. It exists until `remove()` or the session's end.

    Attributes:
        spec: the guest's specification. folder: on the host.
        size: bytes of guest memory that are not zero.
        clone_blocker: the reason why it cannot be cloned, "" if it can.
        prefault_pages: pages that clones copy before they run, as runs of first page and count.
            Empty until a clone has reported them; see SupportsDirtyPages.
        prefault_blocker: the reason why the last clone could not report them.

    Running clones survive `remove()`, since the kernel keeps the files that they map.
    """

    def __init__(self, spec: GuestSpec, machine: Machine, hypervisor: Hypervisor) -> None:
        """Save a guest.

        Its init first prepares what each clone needs, for a few seconds at most. The guest is then
        paused until the snapshot is complete. Raises HarnessError (stage "run") when the hypervisor
        has no snapshots, or the guest writes to a disk.
        """
        self.spec = spec
        self.prefault_pages: Sequence[int] = ()
        self.prefault_blocker = ""
        self.clone_blocker = _clone_blocker(spec, machine.facts)
        self._host = hypervisor.host
        if not isinstance(machine, SupportsSnapshot):
            raise HarnessError(
                f"the hypervisor {hypervisor.name} has no snapshots",
                hint="run this test with --hypervisor=kvm",
                stage="run",
                guest=spec.name,
            )
        # With a memory limit the snapshot goes to a disk: a file in memory would count against the
        # limit of the VMM that writes it.
        mapped = 0 if spec.memory_limit else spec.memory
        self.folder = f"{self._host.scratch(mapped)}/snapshot-{next(_numbers)}-{spec.name}"
        self._host.run(["mkdir", "-m", "700", self.folder])
        try:
            self.size = machine.snapshot(self.folder)
        except BaseException:
            self.remove()
            raise

    def record_dirty_pages(self, clone: Machine) -> None:
        """Record the pages that a ready clone has written, for later clones to copy in advance.

        The first clone that can report its pages does so.
        """
        if isinstance(clone, SupportsDirtyPages) and not self.prefault_pages:
            try:
                self.prefault_pages = clone.private_dirty_pages(self.folder)
            except HarnessError as error:
                self.prefault_blocker = error.cause

    def remove(self) -> None:
        """Remove its files. Idempotent."""
        self._host.run(["rm", "-rf", "--", self.folder])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()


def _clone_blocker(spec: GuestSpec, facts: Mapping[str, Any]) -> str:
    """See Snapshot.clone_blocker. facts: of the machine."""
    if spec.devices:
        return "it has devices that a test emulates"
    if facts.get("ssh") != "vsock":
        return "it has no vsock, by which a clone receives its identity"
    return ""
