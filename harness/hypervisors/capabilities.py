"""Optional capabilities of hypervisors and machines, as protocols that `isinstance` checks.

A hypervisor has a capability when its class has the protocol's members. Name the protocol as a base
class, so that type checkers and readers see the capability:

    class MyHypervisor(SupportsOwnImage): ...

The capabilities of the host's KVM are another thing: see Hypervisor.capabilities().
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from harness.hypervisors.base import Events, GuestSpec, Machine, PayloadSpec

if TYPE_CHECKING:
    from harness.hosts.base import Host
    from images.image import GuestImage

# -- of a hypervisor's class ---------------------------------------------------------------------


@runtime_checkable
class DeclaresKvmUse(Protocol):
    """A hypervisor's class that says whether it needs KVM. Without this it does."""

    needs_kvm: bool


def needs_kvm(factory: object) -> bool:
    """Whether the host of this hypervisor must have a KVM that can run guests."""
    return factory.needs_kvm if isinstance(factory, DeclaresKvmUse) else True


# -- of hypervisors ------------------------------------------------------------------------------


@runtime_checkable
class SupportsOwnImage(Protocol):
    """A hypervisor whose guests boot an image of its own, not the image store's."""

    def guest_image(self, progress: Callable[[str], None]) -> GuestImage:
        """The image, built first when it is missing. Raises ImageError."""


@runtime_checkable
class SupportsClone(Protocol):
    """A hypervisor that starts machines from a snapshot; its machines have SupportsSnapshot."""

    def clone(
        self, folder: str, spec: GuestSpec, events: Events, prefault_pages: Sequence[int] = ()
    ) -> Machine:
        """A machine that continues from the snapshot in `folder` on the host, with its own vsock
        and network address, random numbers, clock and name.

        prefault_pages: the machine copies these pages before it runs; see SupportsDirtyPages.
        Raises ProvisionError (stage "create").
        """


@runtime_checkable
class SupportsPayloads(Protocol):
    """A hypervisor that runs flat code: no kernel, no image, no SSH.

    payload_eventfds: whether it implements PayloadSpec.eventfds.
    """

    name: str
    host: Host
    payload_eventfds: bool

    def create_payload(self, spec: PayloadSpec, events: Events) -> Machine:
        """A machine that runs the payload. Raises ProvisionError (stage "create")."""


@runtime_checkable
class SupportsHostNetwork(Protocol):
    """A hypervisor whose host reaches the guests by their network."""

    def in_network(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` on the host, inside the guests' network. Raises
        HostError where there is no such network."""


@runtime_checkable
class SupportsVhostUserDisks(Protocol):
    """A hypervisor whose guests accept Disk.backend "vhost-user"."""

    vhost_user_disks: bool


def has_vhost_user_disks(hypervisor: object) -> bool:
    """Whether guests of this hypervisor can have disks that qemu-storage-daemon serves."""
    return isinstance(hypervisor, SupportsVhostUserDisks) and hypervisor.vhost_user_disks


# -- of machines ---------------------------------------------------------------------------------


@runtime_checkable
class SupportsCgroup(Protocol):
    """A machine whose processes the host confines by a cgroup."""

    @property
    def cgroup(self) -> str:
        """The cgroup's directory on the host; "" where the host permits none."""


@runtime_checkable
class SupportsIntrospection(Protocol):
    """A machine whose registers, memory, exits and devices a test can use."""

    def ask(self, operation: str, **arguments: Any) -> Any:
        """The result of an operation of harness/agent/introspection.py. Raises HarnessError for
        what the machine refuses."""


@runtime_checkable
class SupportsSnapshot(Protocol):
    """A machine whose state can be saved."""

    def snapshot(self, folder: str) -> int:
        """Write a snapshot into an empty folder of the host; returns the bytes of its memory that
        are not zero. Raises HarnessError."""


@runtime_checkable
class SupportsDirtyPages(Protocol):
    """A clone that reports which pages of its snapshot it has written."""

    def private_dirty_pages(self, folder: str) -> list[int]:
        """First page and count, alternating, of each run of pages. Raises HarnessError."""


@runtime_checkable
class SupportsBalloon(Protocol):
    """A machine with a memory balloon; see harness.guest.base.BaseGuest.balloon."""

    def balloon(self, mib: int | None = None) -> dict[str, int]:
        """Set the balloon's size in MiB; None only refreshes the statistics, which are returned.
        Raises HarnessError."""


@runtime_checkable
class SupportsExitLimit(Protocol):
    """A machine whose limit of exits to user space a second can change while it runs."""

    def limit_exits(self, limit: int) -> None:
        """0 removes the limit."""


@runtime_checkable
class SupportsMonitor(Protocol):
    """A machine with a QMP monitor: `machine.monitor.execute("query-status")`."""

    @property
    def monitor(self) -> Monitor:
        """The client; it is open until the machine has ended."""


class Monitor(Protocol):
    """A client of the QEMU Machine Protocol."""

    def execute(self, command: str, *, timeout: float = 10.0, **arguments: Any) -> Any:
        """The result of a command. Raises HostError when it is refused, late, or the peer ended."""
