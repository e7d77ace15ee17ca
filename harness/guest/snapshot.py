"""A guest at one moment, kept on its host: clones go on from there."""

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
    """Made by `guest.snapshot()`; gone at the session's end, or by `remove()`.

    Attributes:
        spec: of the guest that it was made of. folder: on the host.
        size: bytes of its memory that are not zero. clone_blocker: why it cannot be cloned, ""
        if it can. prefault_pages: pages that clones copy before they run, see Hypervisor; empty
        until a clone has reported them. prefault_blocker: why the last clone could not.

    Clones that run do not need it any more after `remove()`: the kernel keeps what they map.
    """

    def __init__(self, spec: GuestSpec, machine: Machine, hypervisor: Hypervisor) -> None:
        """Lets the guest settle, for some seconds at most: its init gets ready what each clone
        would else need first. Then it is paused for as long as it takes. Raises HarnessError
        (stage "run") when its hypervisor has no snapshots, or the guest writes to a disk."""
        self.spec = spec
        self.prefault_pages: Sequence[int] = ()
        self.prefault_blocker = ""
        self.clone_blocker = _clone_blocker(spec, machine.facts)
        self._host = hypervisor.host
        if not isinstance(machine, SupportsSnapshot):
            raise HarnessError(
                f"the hypervisor {hypervisor.name} has no snapshots",
                hint="use --hypervisor=kvm",
                stage="run",
                guest=spec.name,
            )
        # what a VMM writes counts as its guest's memory, and what lies in memory is not given back
        mapped = 0 if spec.memory_limit else spec.memory
        self.folder = f"{self._host.scratch(mapped)}/snapshot-{next(_numbers)}-{spec.name}"
        self._host.run(["mkdir", "-m", "700", self.folder])
        try:
            self.size = machine.snapshot(self.folder)
        except BaseException:
            self.remove()
            raise

    def record_dirty_pages(self, clone: Machine) -> None:
        """Of a clone that has just become ready: what it has written, the next ones need not wait
        for. The first one tells; if it cannot, the next one."""
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
    if spec.devices:
        return "it has devices of a test's own"
    if facts.get("ssh") != "vsock":
        return "it has no vsock, by which a clone is told its identity"
    return ""
