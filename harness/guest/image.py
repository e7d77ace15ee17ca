"""The image that guests boot: the store's, one in a folder, or either with another kernel."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from images.image import GuestImage, open_guest_image
from images.kernel import read_kernel, read_vmlinux
from images.store import guest_image


def select_image(
    folder: Path | None,
    other_kernel: Path | None,
    boot: str,
    scratch: Path,
    progress: Callable[[str], None],
) -> GuestImage:
    """The image to boot. A missing image of the store is built first.

    Args:
        folder: an image's folder (--guest-image); None for the store's.
        other_kernel: a vmlinux or bzImage that replaces the image's (--guest-kernel).
        boot: how the kernel is entered; "linux64" and "linux16" take the kernel's file unchanged.
        scratch: directory for the unpacked kernel.

    Raises:
        ImageError: the image or the kernel is not usable.
    """
    image = open_guest_image(folder) if folder else guest_image(progress)
    return with_kernel(image, other_kernel, boot, scratch) if other_kernel else image


def with_kernel(image: GuestImage, path: Path, boot: str, scratch: Path) -> GuestImage:
    """The image with another kernel, and a digest that includes it.

    The modules in the image's initramfs belong to its own kernel. Another kernel needs virtio-pci,
    virtio-blk and vsock built in, or it does not boot.

    Raises:
        ImageError: the file is no kernel.
    """
    if boot in ("linux64", "linux16"):
        kernel, data = path, read_kernel(path)
    else:
        kernel, data = scratch / "vmlinux", read_vmlinux(path, pvh=boot == "pvh")
        kernel.write_bytes(data)
    digest = hashlib.sha256(image.digest.encode() + hashlib.sha256(data).digest()).hexdigest()
    return replace(image, kernel=kernel, bzimage=path, digest=digest, release="")
