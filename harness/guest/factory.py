"""Creates guests with names that are unique among sessions and workers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from harness.errors import HarnessError, ProvisionError, hide_frames
from harness.guest.guest import Guest
from harness.guest.guest_options import GUEST_OPTION_NAMES, GuestOptions, unknown_name
from harness.guest.snapshot import Snapshot
from harness.hypervisors.base import DEFAULT_ROOT, GuestSpec, Hypervisor
from harness.hypervisors.capabilities import SupportsClone

if TYPE_CHECKING:
    from images.image import GuestImage

__tracebackhide__ = hide_frames
_DEFAULTS = ("image", "vcpus", "memory", "boot_timeout", "boot", "network", "ssh", "root")


@dataclass
class GuestFactory:
    """Creates guests on one hypervisor.

    Args:
        image: the image that they boot.
        vcpus, memory (MiB), boot_timeout (seconds): defaults for every guest.
        prefix: the start of every guest's name, with run and worker.
        boot, network, ssh, root: defaults for every guest; see GuestSpec.
        consoles: directory for console files, one per guest.
        before_create: called with every guest's specification before the guest exists.
        on_create: called with every guest, even if its boot fails later.
        check: called with the image before each start; raises ImageError when it is damaged.
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
    before_create: Callable[[GuestSpec], None] = lambda spec: None
    on_create: Callable[[Guest], None] = lambda guest: None
    check: Callable[[GuestImage], None] = lambda image: None
    boot: str = "auto"
    count: int = field(default=0, init=False)
    _templates: dict[str, Snapshot] = field(default_factory=dict, init=False)

    def launch(self, label: str = "", **options: Unpack[GuestOptions]) -> Guest:
        """Start a guest and return at once. The caller then calls `wait_ready()`.

        label: the end of its name. Raises TypeError for an unknown option, ProvisionError (stage
        "create"), ImageError when the image is missing or damaged, HarnessError when the hypervisor
        does not support the devices.
        """
        for name in options:
            if name not in GUEST_OPTION_NAMES:
                problem, hint = unknown_name(name, GUEST_OPTION_NAMES)
                raise TypeError(f"a guest cannot be created: {problem}\nhint: {hint}")
        chosen = {name: value for name, value in options.items() if value is not None}
        arguments: dict[str, Any] = {**self._defaults(), **chosen}
        for name in ("disks", "devices"):
            arguments[name] = tuple(arguments.get(name, ()))
        spec = GuestSpec(name=self._name(label), **arguments)
        self.check(spec.image)
        return self._create(spec)

    def _name(self, label: str) -> str:
        self.count += 1
        return guest_name(self.prefix, self.count - 1, label)

    def _create(self, spec: GuestSpec, origin: Snapshot | None = None) -> Guest:
        console = self.consoles / f"{spec.name}.log" if self.consoles else None
        self.before_create(spec)
        guest = Guest(self.hypervisor, spec, console=console, origin=origin)
        self.on_create(guest)
        return guest

    def _defaults(self) -> dict[str, Any]:
        """The options of a guest for which the caller gives none."""
        return {name: getattr(self, name) for name in _DEFAULTS}

    def move_to(self, hypervisor: Hypervisor, image: GuestImage) -> None:
        """Switch to another host. The templates on the old host are dropped."""
        self.hypervisor, self.image = hypervisor, image
        self._templates.clear()

    def clone(self, snapshot: Snapshot, label: str = "") -> Guest:
        """Create a ready guest that continues from a snapshot with its own identity.

        Raises ProvisionError or GuestEnded, like a call of the factory.
        """
        return wait_ready_or_stop(self.launch_clone(snapshot, label))

    def launch_clone(self, snapshot: Snapshot, label: str = "", cpus: Sequence[int] = ()) -> Guest:
        """Like clone(), but return at once. The caller then calls `wait_ready()`.

        cpus: of the host, in place of those of the snapshot's guest.
        """
        if blocker := snapshot.clone_blocker:
            raise ProvisionError(
                f"guest {snapshot.spec.name} cannot be cloned: {blocker}",
                hint="boot a new guest, or take the snapshot of another guest",
                stage="create",
            )
        spec = replace(
            snapshot.spec, name=self._name(label), cpus=tuple(cpus) or snapshot.spec.cpus
        )
        return self._create(spec, snapshot)

    def launch_from_template(self, label: str = "", **options: Unpack[GuestOptions]) -> Guest:
        """Like launch(), but start a clone where that is possible.

        The first guest with the same arguments is booted as the template of the session's clones.
        """
        if not self._can_clone(**options):
            return self.launch(label, **options)
        return self.launch_clone(self._template(**options), label)

    def _can_clone(self, **options: Unpack[GuestOptions]) -> bool:
        """Whether guests with these options can be clones: SSH by vsock, no private resources."""
        private = ("disks", "devices", "hugepages")
        chosen = {**self._defaults(), **options}
        return (
            isinstance(self.hypervisor, SupportsClone)
            and not any(options.get(name) for name in private)
            and chosen["ssh"] != "network"
            and chosen["network"] != "passt"
        )

    def _template(self, **options: Unpack[GuestOptions]) -> Snapshot:
        """The snapshot of a guest that has just booted, without its SSH session."""
        key = repr(sorted(options.items()))
        if key not in self._templates:
            guest = self("template", **options)
            try:
                guest.ssh.disconnect()
                self._templates[key] = guest.snapshot()
            finally:
                guest.stop()
        return self._templates[key]

    def __call__(self, label: str = "", **options: Unpack[GuestOptions]) -> Guest:
        """Create a ready guest with the arguments of `launch`.

        It runs until its `stop()` or the session's end. Raises ProvisionError with the stage that
        was not reached, GuestEnded when the guest ends during its boot.
        """
        return wait_ready_or_stop(self.launch(label, **options))


def guest_name(prefix: str, number: int, label: str) -> str:
    """Build a guest's name from prefix, number, and a shortened label."""
    word = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")[:24].strip("-")
    return f"{prefix}-{number}-{word}" if word else f"{prefix}-{number}"


def parse_guest_name(name: str, prefix: str, *infixes: str) -> tuple[int, str]:
    """Parse a name of guest_name(). Returns number and label; 0 and `name` for other names.

    infixes: words that may follow the prefix.
    """
    infix = "|".join(map(re.escape, infixes))
    match = re.fullmatch(rf"{re.escape(prefix)}(?:-(?:{infix}))?-(\d+)-?(.*)", name)
    return (int(match[1]), match[2]) if match else (0, name)


def wait_ready_or_stop(guest: Guest) -> Guest:
    """Wait for a guest. If its boot fails, stop it before the error is raised."""
    try:
        return guest.wait_ready()
    except BaseException as error:
        try:
            guest.stop()
        except HarnessError as stop_error:
            error.add_note(f"The guest could not be stopped: {stop_error}")
        raise
