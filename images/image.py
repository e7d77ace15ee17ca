"""One image in its folder: its files, its manifest, and the checks that they are unchanged.

A folder of the store holds one image: `manifest.json` and the files that FILES names. The store's
SSH keys are beside it, in `keys/`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import ImageError

from .keys import Keys
from .recipe import Kind

# the first file is the one that boots
FILES: dict[Kind, tuple[str, ...]] = {
    "guest": ("vmlinux", "bzimage", "initramfs", "disk"),
    "host": ("bzimage", "initramfs", "disk"),
    "workload": ("vmlinux", "bzimage", "initramfs", "disk"),
}
MANIFEST = "manifest.json"
Manifest = dict[str, Any]


@dataclass(frozen=True)
class Image:
    """The parts that guest images and host images share.

    Attributes:
        kernel: the file to boot: the unpacked ELF vmlinux of a guest, the bzImage of a host.
        initramfs: the base archive, followed by the archive of the store's keys.
        disk: raw ext2 image of the root file system.
        digest: SHA-256 of all contents except the keys; equal inputs give equal digests.
        release: the kernel's `uname -r`; "" for a kernel that does not come from the image.
        client_key: path of the private key that logs in as root.
        host_key: the SSH server's public key, one line.
        packages: version of each Debian package.
        folder: the folder of these files.
    """

    kernel: Path
    bzimage: Path
    initramfs: Path
    disk: Path
    digest: str
    release: str
    client_key: Path
    host_key: str
    packages: dict[str, str]
    folder: Path


class GuestImage(Image):
    """A guest: kernel, initramfs, root disk. Guests of the kind "workload" have servers, too."""


class HostImage(Image):
    """An emulated host: kernel, initramfs, root disk."""


def open_guest_image(folder: Path) -> GuestImage:
    """The guest image in any store's folder, every file verified.

    Raises:
        ImageError: the folder holds no guest image, or a broken one.
    """
    folder = folder.resolve()
    try:
        manifest = read_manifest(folder)
        kind = manifest["kind"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unusable(folder, f"its {MANIFEST} cannot be read ({error})") from error
    if kind not in ("guest", "workload"):
        raise _unusable(folder, f"it is a {kind} image")
    if problem := find_key_mismatch(folder):
        raise _unusable(folder, problem)
    verify_folder(folder)
    try:
        return GuestImage(**read_image(kind, folder))
    except KeyError as error:
        raise _unusable(folder, f"its {MANIFEST} has no {error}") from error


def read_image(kind: Kind, folder: Path) -> dict[str, Any]:
    """The fields of Image for a folder, not verified. Raises OSError, ValueError, KeyError."""
    manifest, keys = read_manifest(folder), Keys(folder.parent / "keys")
    return {
        "kernel": folder / FILES[kind][0],
        "bzimage": folder / "bzimage",
        "initramfs": folder / "initramfs",
        "disk": folder / "disk",
        "digest": manifest["digest"],
        "release": manifest["release"],
        "client_key": keys.client,
        "host_key": keys.host_public,
        "packages": manifest["packages"],
        "folder": folder,
    }


def read_manifest(folder: Path) -> Manifest:
    """Raises OSError, ValueError."""
    manifest: Manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    return manifest


def check_in_use(image: Image) -> None:
    """Raise ImageError if files of an image in use are missing or changed.

    Only sizes and times are compared, so this is quick enough for every boot.
    """
    problem = find_damage(image.folder) or find_key_mismatch(image.folder)
    if problem:
        raise ImageError(
            f"the image in use was damaged: {problem}",
            hint="run again: it is rebuilt; do not clean the image cache during a run",
            stage="image",
        )


def verify_folder(folder: Path) -> None:
    """Raise ImageError unless every file of the image has its recorded SHA-256."""
    problem = find_damage(folder, full=True)
    if problem:
        raise ImageError(
            f"the image is broken: {problem}", hint="run again: it is rebuilt", stage="image"
        )


def find_damage(folder: Path, *, full: bool = False) -> str:
    """The first difference from the manifest, or "".

    Args:
        full: compute all checksums, not only those of files with another size or time.
    """
    try:
        recorded = read_manifest(folder)["files"]
    except (OSError, ValueError, KeyError):
        return f"{folder / MANIFEST} is missing or broken"
    for name, facts in recorded.items():
        path = folder / name
        try:
            status = path.stat()
            touched = [status.st_size, status.st_mtime_ns] != [facts["size"], facts["mtime_ns"]]
            if (full or touched) and sha256(path) != facts["sha256"]:
                return f"{path} does not have its checksum"
        except OSError as error:
            return f"{path}: {error.strerror}"
    return ""


def find_key_mismatch(folder: Path) -> str:
    """The reason why the keys beside the image cannot log in to it, or "". It changes nothing."""
    keys = Keys(folder.parent / "keys")
    try:
        if read_manifest(folder)["identity"] != keys.public_lines:
            return f"the SSH keys in {keys.folder} changed after the image was built"
        keys.client.stat()
    except (OSError, ValueError, KeyError) as error:
        return f"the SSH keys in {keys.folder} cannot be read ({error})"
    return ""


def file_facts(path: Path, checksum: str) -> dict[str, Any]:
    """The manifest's record of one file; find_damage() compares it."""
    status = path.stat()
    return {"sha256": checksum, "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unusable(folder: Path, problem: str) -> ImageError:
    return ImageError(
        f"{folder} is not a usable guest image: {problem}",
        hint="name a folder that `python -m images list` shows, or omit --guest-image",
        stage="image",
    )
