"""The image store: built when missing or broken, cached by content, verified at each use.

- keys/: the store's SSH keys
- debs/: packages as downloaded
- guest-RECIPE-DIGEST/, host-...: one image and its manifest.json
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import ImageError

from . import keys as store_keys
from . import recipe as recipes
from .build import Builder, sha256
from .lock import held
from .recipe import Kind

Progress = Callable[[str], None]
# the first one is what boots
FILES: dict[Kind, tuple[str, ...]] = {
    "guest": ("vmlinux", "bzimage", "initramfs", "disk"),
    "host": ("bzimage", "initramfs", "disk"),
}
_BUILDING = ".building-"


@dataclass(frozen=True)
class Image:
    """What both kinds of image have.

    Attributes:
        kernel: what to boot: for guests the unpacked ELF vmlinux, for hosts the bzImage.
        initramfs: base archive and the store's keys, joined.
        disk: raw ext2 image of the root file system.
        digest: of all contents but the keys; the same for everybody with the same inputs.
        release: the kernel's `uname -r`.
        client_key: path of the private key that root's login takes.
        host_key: the SSH server's public key line.
        packages: Debian packages and their versions.
        folder: where all this is.
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
    """A guest: kernel, initramfs, root disk."""


class HostImage(Image):
    """An emulated host."""


def guest_image(progress: Progress = print, cache: Path | None = None) -> GuestImage:
    """The guest image, built first if it is missing or broken.

    Args:
        progress: called with one line for each stage of a build.
        cache: the store's folder; by default pytest-hypervisor/images under $XDG_CACHE_HOME.

    Raises:
        ImageError: it cannot be built; nothing half-made stays.
    """
    return GuestImage(**_ensure("guest", progress, cache or default_cache()))


def host_image(progress: Progress = print, cache: Path | None = None) -> HostImage:
    """The emulated host's image; see guest_image."""
    return HostImage(**_ensure("host", progress, cache or default_cache()))


def default_cache() -> Path:
    """$XDG_CACHE_HOME/pytest-hypervisor/images, or under ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "pytest-hypervisor" / "images"


def check(image: Image) -> None:
    """Raise ImageError if files of an image in use are gone or changed (sizes and times only)."""
    problem = _problem(image.folder, full=False) or _key_problem(image.folder)
    if problem:
        raise ImageError(
            f"the image in use was damaged: {problem}",
            hint="run again: it is rebuilt; do not clean the image cache during a run",
            stage="image",
        )


def verify(image: Image) -> None:
    """Raise ImageError unless every file of the image has its recorded SHA-256."""
    verify_folder(image.folder)


def verify_folder(folder: Path) -> None:
    """The same for an image's folder."""
    problem = _problem(folder, full=True)
    if problem:
        raise ImageError(
            f"the image is broken: {problem}", hint="run again: it is rebuilt", stage="image"
        )


def images(cache: Path | None = None) -> list[tuple[Path, dict[str, Any], bool]]:
    """All images of a store: folder, manifest ({} if broken), whether it is the one used now."""
    cache = cache or default_cache()
    found = []
    for path in sorted(cache.glob("*-*-*/manifest.json")):
        kind: Kind = "host" if path.parent.name.startswith("host-") else "guest"
        try:
            manifest = _manifest(path.parent)
        except (OSError, ValueError):
            manifest = {}
        found.append((path.parent, manifest, _current(kind, cache) == path.parent))
    return found


def clean(cache: Path | None = None, *, everything: bool = False) -> list[Path]:
    """Remove superseded images, downloads and what killed builds left; what was removed."""
    cache = cache or default_cache()
    with ExitStack() as locks:
        for kind in FILES:  # no build is running now
            locks.enter_context(held(cache / f"{kind}.lock", lambda _: None))
        gone = [folder for folder, _, current in images(cache) if everything or not current]
        gone += [*cache.glob("debs"), *cache.glob(f"{_BUILDING}*"), *cache.glob(".keys-*")]
        for path in gone:
            shutil.rmtree(path, ignore_errors=True)
    return gone


def _ensure(kind: Kind, progress: Progress, cache: Path) -> dict[str, Any]:
    try:
        keys = store_keys.ensure(cache / "keys")
    except OSError as error:
        if _is_full(error):
            raise _full(cache, 1) from error
        raise ImageError(
            f"the SSH keys in {cache / 'keys'} cannot be made: {error.strerror}",
            hint="make the cache writable, or set XDG_CACHE_HOME to another place",
            stage="image",
        ) from error
    folder = _usable(kind, cache, lambda _: None)
    if folder is None:
        with held(cache / f"{kind}.lock", progress):
            # another process may have built it while we waited
            folder = _usable(kind, cache, progress) or _build(kind, cache, keys, progress)
    manifest = _manifest(folder)
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


def _current(kind: Kind, cache: Path) -> Path | None:
    """The newest image made by the present recipe and builder."""
    folders = list(cache.glob(f"{kind}-{recipes.key(kind)[:12]}-*"))
    return max(folders, key=_age, default=None)


def _age(folder: Path) -> int:
    """When it was made, ns; 0 if another process takes it away at this moment."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0


def _usable(kind: Kind, cache: Path, progress: Progress) -> Path | None:
    folder = _current(kind, cache)
    if folder is None:
        return None
    problem = _problem(folder, full=False) or _key_problem(folder)
    if problem:
        progress(f"{kind} image: {problem}: building it again")
        return None
    return folder


def _problem(folder: Path, *, full: bool) -> str:
    """What is wrong with an image's files, or ""."""
    try:
        recorded = _manifest(folder)["files"]
    except (OSError, ValueError, KeyError):
        return f"{folder / 'manifest.json'} is missing or broken"
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


def _key_problem(folder: Path) -> str:
    keys = store_keys.Keys(folder.parent / "keys")
    try:
        if _manifest(folder)["identity"] != keys.client_public + keys.host_public:
            return "the store's SSH keys changed"
        if keys.client.stat().st_mode & 0o077:
            keys.client.chmod(0o600)
    except (OSError, ValueError, KeyError) as error:
        return f"the store's SSH keys: {error}"
    return ""


def _manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return manifest


def _build(kind: Kind, cache: Path, keys: store_keys.Keys, progress: Progress) -> Path:
    recipe = recipes.load(kind)
    for stale in cache.glob(f"{_BUILDING}{kind}-*"):  # we hold the lock: its builder was killed
        shutil.rmtree(stale, ignore_errors=True)
    _require_space(cache, recipe.need_mib)
    scratch = Path(tempfile.mkdtemp(prefix=f"{_BUILDING}{kind}-", dir=cache))
    try:
        contents = Builder(recipe, scratch, cache, progress).build()
        digests = {name: sha256(scratch / name) for name in FILES[kind]}
        content = json.dumps(digests, sort_keys=True).encode()
        digest = hashlib.sha256(content).hexdigest()
        with (scratch / "initramfs").open("ab") as file:
            file.write(keys.identity())
        (scratch / "initramfs").chmod(0o600)  # it has the SSH server's private key
        digests["initramfs"] = sha256(scratch / "initramfs")
        files = {
            name: {"sha256": value, **_size_and_time(scratch / name)}
            for name, value in digests.items()
        }
        manifest = {
            "kind": kind,
            "digest": digest,
            "release": contents.release,
            "identity": keys.client_public + keys.host_public,
            "files": files,
            "stages": contents.stages,
            "packages": contents.packages,
        }
        return _put_in_place(kind, cache, scratch, manifest)
    except (OSError, ImageError) as error:
        if _is_full(error):
            full = _full(cache, recipe.need_mib)
            shutil.rmtree(cache / "debs", ignore_errors=True)  # what we took, we give back
            raise full from error
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _put_in_place(kind: Kind, cache: Path, scratch: Path, manifest: dict[str, Any]) -> Path:
    done = scratch / "done"
    done.mkdir()
    for name in FILES[kind]:
        (scratch / name).rename(done / name)
    (done / "manifest.json").write_text(json.dumps(manifest, indent=1))
    folder = cache / f"{kind}-{recipes.key(kind)[:12]}-{manifest['digest'][:12]}"
    if folder.exists():  # the broken one that this replaces
        folder.rename(scratch / "old")
    done.rename(folder)
    return folder


def _size_and_time(path: Path) -> dict[str, int]:
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _require_space(cache: Path, need_mib: int) -> None:
    if shutil.disk_usage(cache).free < need_mib << 20:
        raise _full(cache, need_mib)


def _is_full(error: Exception) -> bool:
    return getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT} or any(
        sign in str(error) for sign in ("No space left", "enough free space", "quota exceeded")
    )


def _full(cache: Path, need_mib: int) -> ImageError:
    free = shutil.disk_usage(cache).free >> 20
    return ImageError(
        f"no space to build an image in {cache} (file system {_mount_point(cache)}):"
        f" {free} MiB free, about {need_mib} MiB needed",
        hint="free some space, or set XDG_CACHE_HOME to a folder on a larger file system",
        stage="image",
    )


def _mount_point(path: Path) -> Path:
    path = path.resolve()
    while not path.is_mount():
        path = path.parent
    return path
