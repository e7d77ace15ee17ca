"""Makes guests with names that no other session or worker uses, and knows all that it made."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import HarnessError, hide_frames
from harness.guest.guest import Guest
from harness.hypervisors.base import Disk, GuestSpec, Hypervisor

if TYPE_CHECKING:
    from images.store import GuestImage

__tracebackhide__ = hide_frames


@dataclass
class GuestFactory:
    """Makes guests on one hypervisor.

    Args:
        image: what they boot.
        vcpus, memory (MiB), boot_timeout (seconds): of a guest when nobody says otherwise.
        prefix: run and worker: the start of every guest's name.
        consoles: directory for their consoles, one file a guest.
        on_made: told of every guest, also of those that do not come up.
        check: raises ImageError when an image in use was damaged.
    """

    hypervisor: Hypervisor
    image: GuestImage
    vcpus: int
    memory: int
    boot_timeout: float
    prefix: str
    consoles: Path | None = None
    on_made: Callable[[Guest], None] = lambda guest: None
    check: Callable[[GuestImage], None] = lambda image: None
    count: int = field(default=0, init=False)

    def launch(
        self,
        label: str = "",
        *,
        vcpus: int | None = None,
        memory: int | None = None,
        boot_timeout: float | None = None,
        disks: Sequence[Disk] = (),
        cmdline: str = "",
        image: GuestImage | None = None,
    ) -> Guest:
        """Start a guest and return at once; `wait_ready()` is the caller's.

        label: ends its name, for people. memory: MiB. boot_timeout: seconds. disks: besides the
        root disk. cmdline: added to the kernel's. image: another one than the session's. Raises
        ProvisionError (stage "create"), ImageError when the image went away.
        """
        name = f"{self.prefix}-{self.count}"
        self.count += 1
        if word := re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")[:24].strip("-"):
            name += f"-{word}"
        spec = GuestSpec(
            name=name,
            image=self.image if image is None else image,
            vcpus=self.vcpus if vcpus is None else vcpus,
            memory=self.memory if memory is None else memory,
            boot_timeout=self.boot_timeout if boot_timeout is None else boot_timeout,
            disks=tuple(disks),
            cmdline=cmdline,
        )
        self.check(spec.image)
        console = self.consoles / f"{name}.log" if self.consoles else None
        guest = Guest(self.hypervisor, spec, console=console)
        self.on_made(guest)
        return guest

    def __call__(
        self,
        label: str = "",
        *,
        vcpus: int | None = None,
        memory: int | None = None,
        boot_timeout: float | None = None,
        disks: Sequence[Disk] = (),
        cmdline: str = "",
        image: GuestImage | None = None,
    ) -> Guest:
        """A ready guest; the arguments are those of `launch`.

        Raises ProvisionError naming the stage that it did not reach, GuestEnded when it ends
        while it boots. It lives until the session's end, or until its `stop()`.
        """
        guest = self.launch(
            label,
            vcpus=vcpus,
            memory=memory,
            boot_timeout=boot_timeout,
            disks=disks,
            cmdline=cmdline,
            image=image,
        )
        return ready(guest)


def ready(guest: Guest) -> Guest:
    """Wait for a guest; one that does not come up is stopped before the error goes on."""
    try:
        return guest.wait_ready()
    except BaseException as error:
        try:
            guest.stop()
        except HarnessError as left:
            error.add_note(f"and it could not be stopped: {left}")
        raise
