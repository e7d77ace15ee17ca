"""Makes guests with names that no other session or worker uses, and knows all that it made."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError, ProvisionError, hide_frames
from harness.guest.guest import Guest
from harness.guest.snapshot import Snapshot
from harness.hypervisors.base import DEFAULT_ROOT, Disk, GuestSpec, Hypervisor
from harness.hypervisors.capabilities import SupportsClone

if TYPE_CHECKING:
    from harness.guest.devices import PciDevice, PortDevice
    from images.image import GuestImage

__tracebackhide__ = hide_frames


@dataclass
class GuestFactory:
    """Makes guests on one hypervisor.

    Args:
        image: what they boot.
        vcpus, memory (MiB), boot_timeout (seconds): of a guest when nobody says otherwise.
        prefix: run and worker: the start of every guest's name.
        boot, network, ssh, root: of a guest when nobody says otherwise; see GuestSpec.
        consoles: directory for their consoles, one file a guest.
        on_create: told of every guest, also of those that do not come up.
        check: raises ImageError when an image in use was damaged.
    """

    hypervisor: Hypervisor
    image: GuestImage
    vcpus: int
    memory: int
    boot_timeout: float
    prefix: str
    network: str = "auto"
    ssh: str = "auto"
    root: str = DEFAULT_ROOT
    consoles: Path | None = None
    on_create: Callable[[Guest], None] = lambda guest: None
    check: Callable[[GuestImage], None] = lambda image: None
    boot: str = "auto"
    count: int = field(default=0, init=False)
    _templates: dict[str, Snapshot] = field(default_factory=dict, init=False)

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
        devices: Sequence[PciDevice | PortDevice] = (),
        **more: Any,
    ) -> Guest:
        """Start a guest and return at once; `wait_ready()` is the caller's.

        label: ends its name, for people. memory: MiB. boot_timeout: seconds. disks: besides the
        root disk. cmdline: added to the kernel's. image: another one than the session's. devices:
        of the test's own. more: other fields of GuestSpec (cpu_limit=0.5). Raises ProvisionError
        (stage "create"), ImageError when the image went away, HarnessError for devices where the
        hypervisor takes none.
        """
        spec = GuestSpec(
            name=self._name(label),
            image=self.image if image is None else image,
            vcpus=self.vcpus if vcpus is None else vcpus,
            memory=self.memory if memory is None else memory,
            boot_timeout=self.boot_timeout if boot_timeout is None else boot_timeout,
            disks=tuple(disks),
            cmdline=cmdline,
            devices=tuple(devices),
            **{**self._defaults(), **more},
        )
        self.check(spec.image)
        return self._make(spec)

    def _name(self, label: str) -> str:
        self.count += 1
        return guest_name(self.prefix, self.count - 1, label)

    def _make(self, spec: GuestSpec, origin: Snapshot | None = None) -> Guest:
        console = self.consoles / f"{spec.name}.log" if self.consoles else None
        guest = Guest(self.hypervisor, spec, console=console, origin=origin)
        self.on_create(guest)
        return guest

    def _defaults(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in ("boot", "network", "ssh", "root")}

    def move_to(self, hypervisor: Hypervisor, image: GuestImage) -> None:
        """From now on on another host: what was kept on the old one is gone."""
        self.hypervisor, self.image = hypervisor, image
        self._templates.clear()

    def clone(self, snapshot: Snapshot, label: str = "") -> Guest:
        """A ready guest that goes on from a snapshot, with an identity of its own.

        Raises ProvisionError, GuestEnded as a call of the factory does.
        """
        return wait_ready_or_stop(self.launch_clone(snapshot, label))

    def launch_clone(self, snapshot: Snapshot, label: str = "") -> Guest:
        """As clone(), but it returns at once; `wait_ready()` is the caller's."""
        if blocker := snapshot.clone_blocker:
            raise ProvisionError(
                f"guest {snapshot.spec.name} cannot be cloned: {blocker}",
                hint="boot another, or make the snapshot of a guest without it",
                stage="create",
            )
        return self._make(replace(snapshot.spec, name=self._name(label)), snapshot)

    def launch_from_template(self, label: str = "", **arguments: Any) -> Guest:
        """As launch(); a clone where the hypervisor makes them. The first of its kind is booted
        as the template of all in this session."""
        if not self._clones(**arguments):
            return self.launch(label, **arguments)
        return self.launch_clone(self._template(**arguments), label)

    def _clones(self, **arguments: Any) -> bool:
        """Whether such guests can be clones: SSH comes by vsock, and nothing is one guest's own."""
        own = ("disks", "devices", "hugepages", "mergeable")
        chosen = {**self._defaults(), **arguments}
        return (
            isinstance(self.hypervisor, SupportsClone)
            and not any(arguments.get(name) for name in own)
            and chosen["ssh"] != "network"
            and chosen["network"] != "passt"
        )

    def _template(self, **arguments: Any) -> Snapshot:
        """The snapshot of a guest that has just become ready, and has no SSH session any more."""
        kind = repr(sorted(arguments.items()))
        if kind not in self._templates:
            guest = self("template", **arguments)
            try:
                guest.ssh.disconnect()
                self._templates[kind] = guest.snapshot()
            finally:
                guest.stop()
        return self._templates[kind]

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
        devices: Sequence[PciDevice | PortDevice] = (),
        **more: Any,
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
            devices=devices,
            **more,
        )
        return wait_ready_or_stop(guest)


def guest_name(prefix: str, number: int, label: str) -> str:
    """A name that ends in what of a label people need."""
    word = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")[:24].strip("-")
    return f"{prefix}-{number}-{word}" if word else f"{prefix}-{number}"


def parse_guest_name(name: str, prefix: str, *words: str) -> tuple[int, str]:
    """Of a guest_name with this prefix, which may have one of the words behind it; of any other
    name 0, and all of it."""
    more = "|".join(map(re.escape, words))
    found = re.fullmatch(rf"{re.escape(prefix)}(?:-(?:{more}))?-(\d+)-?(.*)", name)
    return (int(found[1]), found[2]) if found else (0, name)


def wait_ready_or_stop(guest: Guest) -> Guest:
    """Wait for a guest; one that does not come up is stopped before the error goes on."""
    try:
        return guest.wait_ready()
    except BaseException as error:
        try:
            guest.stop()
        except HarnessError as left:
            error.add_note(f"and it could not be stopped: {left}")
        raise
