"""Which image guests boot: the built one, one in a folder, or either with another kernel."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.errors import ImageError
from images import kernel, store
from images.keys import Keys


def choose(
    folder: Path | None,
    other_kernel: Path | None,
    boot: str,
    scratch: Path,
    progress: Callable[[str], None],
) -> store.GuestImage:
    """The image to boot, built first when it is the store's own and missing.

    Args:
        folder: an image's folder (--guest-image); None for the store's.
        other_kernel: a vmlinux or bzImage in place of the image's (--guest-kernel).
        boot: how it will be entered; "linux64" takes the kernel's file as it is.
        scratch: directory for the unpacked kernel.

    Raises ImageError.
    """
    image = open_folder(folder) if folder else store.guest_image(progress)
    return with_kernel(image, other_kernel, boot, scratch) if other_kernel else image


def open_folder(folder: Path) -> store.GuestImage:
    """A guest image by its folder in a store. Raises ImageError when it is none, or broken."""
    folder = folder.resolve()
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text("utf-8"))
        kind = manifest["kind"]
        known = {name: manifest[name] for name in ("digest", "release", "packages")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _no_image(folder, f"its manifest.json cannot be read ({error})") from error
    if kind != "guest":
        raise _no_image(folder, f"it is a {kind} image")
    keys = Keys(folder.parent / "keys")
    try:
        identity = keys.client_public + keys.host_public
    except OSError as error:
        raise _no_image(folder, f"the SSH keys beside it cannot be read ({error})") from error
    if identity != manifest.get("identity"):
        raise _no_image(folder, f"the SSH keys in {folder.parent / 'keys'} are not those in it")
    store.verify_folder(folder)
    return store.GuestImage(
        kernel=folder / "vmlinux",
        bzimage=folder / "bzimage",
        initramfs=folder / "initramfs",
        disk=folder / "disk",
        client_key=keys.client,
        host_key=keys.host_public,
        folder=folder,
        **known,
    )


def with_kernel(image: store.GuestImage, path: Path, boot: str, scratch: Path) -> store.GuestImage:
    """The image with another kernel, and a digest that says so. Raises ImageError for no kernel.

    The modules in the image's initramfs belong to its own kernel: another kernel has virtio-pci,
    virtio-blk and vsock built in, or does not come up.
    """
    if boot == "linux64":
        booted, data = path, kernel.read(path)
    else:
        booted, data = scratch / "vmlinux", kernel.vmlinux(path, pvh=boot == "pvh")
        booted.write_bytes(data)
    digest = hashlib.sha256(image.digest.encode() + hashlib.sha256(data).digest()).hexdigest()
    return replace(image, kernel=booted, bzimage=path, digest=digest, release="")


def _no_image(folder: Path, why: str) -> ImageError:
    return ImageError(
        f"{folder} is no guest image that can be used: {why}",
        hint="name a folder that `python -m images list` shows, or leave --guest-image out",
        stage="image",
    )
