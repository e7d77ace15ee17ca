"""Images and guest factories of the session's hypervisors."""

# ruff: noqa: PLC0415 - every pytest run loads this module, so heavy imports are inside functions
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from harness.hypervisors.capabilities import SupportsOwnImage
from harness.plugin.context import RunContext
from harness.plugin.host_manager import NATIVE, HostManager

if TYPE_CHECKING:
    from harness.guest.base import BaseGuest
    from harness.guest.factory import GuestFactory
    from harness.hypervisors.base import GuestSpec, Hypervisor
    from images.image import GuestImage


class Provisioner:
    """One image and one guest factory for each hypervisor. Each is made when a test needs it.

    on_guest: called with every guest that a factory starts.
    """

    def __init__(
        self, context: RunContext, hosts: HostManager, on_guest: Callable[[BaseGuest], None]
    ) -> None:
        self._context = context
        self._hosts = hosts
        self._on_guest = on_guest
        # by hypervisor; hypervisors without an image of their own share the one named ""
        self._images: dict[str, GuestImage] = {}
        self._factories: dict[str, GuestFactory] = {}
        self._booted: dict[str, str] = {}  # digest of its image by a guest's name

    def image(self, hypervisor: Hypervisor) -> GuestImage:
        """What a hypervisor's guests boot. Builds it when it is missing. Raises ImageError."""
        own = hypervisor if isinstance(hypervisor, SupportsOwnImage) else None
        key = hypervisor.name if own else ""
        if key not in self._images:
            progress = self._context.progress
            with progress.stage("guest image"):
                self._images[key] = own.guest_image(progress) if own else self._stored_image()
        return self._images[key]

    def image_digest(self, hypervisor: Hypervisor, guest: str = "") -> str:
        """The digest of the image that a guest of this name booted, or else of the one that the
        hypervisor's guests boot; "" before the first boot."""
        key = hypervisor.name if isinstance(hypervisor, SupportsOwnImage) else ""
        default = self._images[key].digest if key in self._images else ""
        return self._booted.get(guest, default)

    @property
    def booted_images(self) -> list[str]:
        """The digests of the images that guests have booted."""
        return sorted(set(self._booted.values()))

    def _stored_image(self) -> GuestImage:
        from harness.guest.image import select_image

        context, settings = self._context, self._context.settings
        return select_image(
            settings.image, settings.kernel, settings.boot, context.scratch, context.progress
        )

    def factory(self, hypervisor: Hypervisor) -> GuestFactory:
        """The factory of a hypervisor's guests. Later calls return the same one."""
        if hypervisor.name not in self._factories:
            self._factories[hypervisor.name] = self._make_factory(hypervisor)
        return self._factories[hypervisor.name]

    def _make_factory(self, hypervisor: Hypervisor) -> GuestFactory:
        from harness.guest.factory import GuestFactory

        context, settings = self._context, self._context.settings
        several = len(self._hosts.hypervisors) > 1
        own_image = isinstance(hypervisor, SupportsOwnImage)
        # The options for machines do not apply to native guests that no option names.
        implicit = hypervisor.name == NATIVE and NATIVE not in settings.targets
        defaults = () if implicit else ("boot", "network", "ssh", "root")
        return GuestFactory(
            hypervisor=hypervisor,
            image=self.image(hypervisor),
            vcpus=settings.vcpus,
            memory=settings.memory,
            boot_timeout=settings.boot_timeout,
            prefix=f"{context.prefix}-{hypervisor.name}" if several else context.prefix,
            consoles=context.artifacts,
            before_create=self._note_image,
            on_create=self._on_guest,
            check=(lambda image: None) if own_image else _check_image,
            **{name: getattr(settings, name) for name in defaults},
        )

    def _note_image(self, spec: GuestSpec) -> None:
        self._booted[spec.name] = spec.image.digest

    def move_to_new_host(self) -> None:
        """Use the hypervisors of a host that replaces another one."""
        self._images = {key: image for key, image in self._images.items() if not key}
        for label, factory in self._factories.items():
            if label in self._hosts.hypervisors:
                hypervisor = self._hosts.hypervisors[label]
                factory.move_to(hypervisor, self.image(hypervisor))


def _check_image(image: GuestImage) -> None:
    """Raise ImageError before a boot when the image was damaged since it was built."""
    from images.image import check_in_use

    check_in_use(image)
