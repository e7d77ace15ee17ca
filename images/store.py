"""The image store: images are built when missing or broken, cached by content, checked at each use.

- keys/: the store's SSH keys
- debs/: downloaded packages
- guest-RECIPE-DIGEST/, host-RECIPE-DIGEST/: one image and its manifest.json
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
from pathlib import Path
from typing import Any

from harness.errors import ImageError

from .build import Builder
from .image import (
    FILES,
    MANIFEST,
    GuestImage,
    HostImage,
    Manifest,
    file_facts,
    find_damage,
    find_key_mismatch,
    read_image,
    read_manifest,
    sha256,
)
from .keys import Keys, ensure_keys
from .lock import build_lock
from .recipe import Kind, load_recipe, recipe_digest

Progress = Callable[[str], None]
_BUILDING = ".building-"
_NO_SPACE_TEXTS = ("No space left", "enough free space", "quota exceeded")


def guest_image(progress: Progress = print, cache: Path | None = None) -> GuestImage:
    """The guest image, built first if it is missing or broken.

    Args:
        progress: called with one line for each step of a build.
        cache: the store's folder; by default pytest-hypervisor/images under $XDG_CACHE_HOME.

    Raises:
        ImageError: the image cannot be built. No partial image remains.
    """
    return GuestImage(**_ensure_image("guest", progress, cache or default_cache()))


def host_image(progress: Progress = print, cache: Path | None = None) -> HostImage:
    """The emulated host's image; see guest_image."""
    return HostImage(**_ensure_image("host", progress, cache or default_cache()))


def workload_image(progress: Progress = print, cache: Path | None = None) -> GuestImage:
    """The guest image with the servers of the consolidation suite; see guest_image."""
    return GuestImage(**_ensure_image("workload", progress, cache or default_cache()))


def default_cache() -> Path:
    """$XDG_CACHE_HOME/pytest-hypervisor/images, or under ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "pytest-hypervisor" / "images"


def list_images(cache: Path | None = None) -> list[tuple[Path, Manifest, bool]]:
    """All images of a store: folder, manifest ({} if broken), whether it is the current one."""
    cache = cache or default_cache()
    images = []
    found = [path for kind in FILES for path in cache.glob(f"{kind}-*-*/{MANIFEST}")]
    for path in sorted(found):
        folder = path.parent
        kind = next(kind for kind in FILES if folder.name.startswith(f"{kind}-"))
        try:
            manifest = read_manifest(folder)
        except (OSError, ValueError):
            manifest = {}
        images.append((folder, manifest, _current_folder(kind, cache) == folder))
    return images


def clean(cache: Path | None = None, *, everything: bool = False) -> list[Path]:
    """Remove superseded images, downloads and the remains of killed builds.

    Args:
        everything: remove the current images, too.

    Returns the removed paths.
    """
    cache = cache or default_cache()
    with ExitStack() as locks:
        for kind in FILES:  # wait for running builds
            locks.enter_context(build_lock(cache / f"{kind}.lock", lambda _: None))
        paths = [folder for folder, _, current in list_images(cache) if everything or not current]
        paths += [*cache.glob("debs"), *cache.glob(f"{_BUILDING}*"), *cache.glob(".keys-*")]
        for path in paths:
            shutil.rmtree(path, ignore_errors=True)
    return paths


def _ensure_image(kind: Kind, progress: Progress, cache: Path) -> dict[str, Any]:
    try:
        keys = ensure_keys(cache / "keys")
    except OSError as error:
        if _is_no_space(error):
            raise _no_space_error(cache, 1) from error
        raise ImageError(
            f"the SSH keys in {cache / 'keys'} cannot be made: {error.strerror}",
            hint="make the cache writable, or set XDG_CACHE_HOME to another folder",
            stage="image",
        ) from error
    folder = _intact_folder(kind, cache, lambda _: None)
    if folder is None:
        with build_lock(cache / f"{kind}.lock", progress):
            # another process may have built the image while this one waited for the lock
            folder = _intact_folder(kind, cache, progress) or _build(kind, cache, keys, progress)
    return read_image(kind, folder)


def _current_folder(kind: Kind, cache: Path) -> Path | None:
    """The newest image of the current recipe and builder."""
    folders = list(cache.glob(f"{kind}-{recipe_digest(kind)[:12]}-*"))
    return max(folders, key=_mtime_ns, default=None)


def _mtime_ns(folder: Path) -> int:
    """0 if another process removes the folder at this moment."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0


def _intact_folder(kind: Kind, cache: Path, progress: Progress) -> Path | None:
    folder = _current_folder(kind, cache)
    if folder is None:
        return None
    problem = find_damage(folder) or find_key_mismatch(folder)
    if problem:
        progress(f"{kind} image: {problem}: building it again")
        return None
    client_key = Keys(folder.parent / "keys").client
    if client_key.stat().st_mode & 0o077:  # ssh refuses a key that others can read
        client_key.chmod(0o600)
    return folder


def _build(kind: Kind, cache: Path, keys: Keys, progress: Progress) -> Path:
    recipe = load_recipe(kind)
    # this process holds the lock, so the builders of these folders were killed
    for stale in cache.glob(f"{_BUILDING}{kind}-*"):
        shutil.rmtree(stale, ignore_errors=True)
    _require_space(cache, recipe.need_mib)
    scratch = Path(tempfile.mkdtemp(prefix=f"{_BUILDING}{kind}-", dir=cache))
    try:
        contents = Builder(recipe, scratch, cache, progress).build()
        checksums = {name: sha256(scratch / name) for name in FILES[kind]}
        digest = hashlib.sha256(json.dumps(checksums, sort_keys=True).encode()).hexdigest()
        initramfs = scratch / "initramfs"
        with initramfs.open("ab") as file:
            file.write(keys.identity_archive())
        initramfs.chmod(0o600)  # it holds the SSH server's private key
        checksums["initramfs"] = sha256(initramfs)
        manifest = {
            "kind": kind,
            "digest": digest,
            "release": contents.release,
            "identity": keys.public_lines,
            "files": {
                name: file_facts(scratch / name, checksum) for name, checksum in checksums.items()
            },
            "stages": contents.stages,
            "packages": contents.packages,
        }
        return _install(kind, cache, scratch, manifest)
    except (OSError, ImageError) as error:
        if _is_no_space(error):
            no_space = _no_space_error(cache, recipe.need_mib)
            shutil.rmtree(cache / "debs", ignore_errors=True)  # free the space that this used
            raise no_space from error
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _install(kind: Kind, cache: Path, scratch: Path, manifest: Manifest) -> Path:
    """Move a finished build to its folder, by renames alone: no reader sees a partial image."""
    complete = scratch / "complete"
    complete.mkdir()
    for name in FILES[kind]:
        (scratch / name).rename(complete / name)
    (complete / MANIFEST).write_text(json.dumps(manifest, indent=1))
    folder = cache / f"{kind}-{recipe_digest(kind)[:12]}-{manifest['digest'][:12]}"
    if folder.exists():  # a broken image with the same contents
        folder.rename(scratch / "old")
    complete.rename(folder)
    return folder


def _require_space(cache: Path, need_mib: int) -> None:
    if shutil.disk_usage(cache).free < need_mib << 20:
        raise _no_space_error(cache, need_mib)


def _is_no_space(error: Exception) -> bool:
    return getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT} or any(
        text in str(error) for text in _NO_SPACE_TEXTS
    )


def _no_space_error(cache: Path, need_mib: int) -> ImageError:
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
