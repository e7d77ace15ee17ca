"""Recipes: the contents of each image, as TOML files beside this module, and their digest."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["guest", "host"]

FOLDER = Path(__file__).resolve().parent
# These modules store images; no image's contents depend on them.
_STORE_MODULES = {"__init__.py", "__main__.py", "image.py", "keys.py", "lock.py", "store.py"}


@dataclass(frozen=True)
class File:
    """A file that a recipe adds to the root file system; `path` is absolute inside the image."""

    path: str
    data: bytes
    mode: int = 0o644


@dataclass(frozen=True)
class Recipe:
    """One image's contents.

    Attributes:
        packages: Debian packages; their dependencies are added.
        drop: shell patterns of packages that are left out again.
        exclude: shell patterns of paths that are left out of all packages.
        modules: kernel modules loaded before the root disk is mounted.
        pmem_modules: further modules for a root on persistent memory.
        late_modules: further modules that are loaded after SSH is ready.
        free_mib, free_inodes: space for files that are written later.
        need_mib: space that a build needs at most.
        precompile_python: compile Python's standard library.
        ip: "ADDRESS/PREFIX,GATEWAY" unless the kernel command line has another; "" for none.
    """

    kind: Kind
    packages: tuple[str, ...]
    drop: tuple[str, ...]
    exclude: tuple[str, ...]
    modules: tuple[str, ...]
    pmem_modules: tuple[str, ...]
    late_modules: tuple[str, ...]
    directories: tuple[str, ...]
    links: dict[str, str]
    files: tuple[File, ...]
    free_mib: int
    free_inodes: int
    need_mib: int
    precompile_python: bool
    ip: str


def load_recipe(kind: Kind) -> Recipe:
    """The recipe of one kind of image: `base/recipe.toml` joined with `KIND/recipe.toml`."""
    base = _toml(FOLDER / "base" / "recipe.toml")
    own = _toml(FOLDER / kind / "recipe.toml")

    def both(name: str) -> tuple[str, ...]:
        return tuple(sorted({*base.get(name, ()), *own.get(name, ())}))

    return Recipe(
        kind=kind,
        packages=both("packages"),
        drop=both("drop"),
        exclude=both("exclude"),
        modules=tuple(own["modules"]),
        pmem_modules=tuple(own.get("pmem_modules", ())),
        late_modules=tuple(own.get("late_modules", ())),
        directories=both("directories"),
        links={**base.get("links", {}), **own.get("links", {})},
        files=tuple(
            File(entry["path"], entry["text"].encode(), entry.get("mode", 0o644))
            for entry in [*base.get("file", ()), *own.get("file", ())]
        ),
        free_mib=own["free_mib"],
        free_inodes=own["free_inodes"],
        need_mib=own["need_mib"],
        precompile_python=own["precompile_python"],
        ip=own.get("ip", ""),
    )


def recipe_digest(kind: Kind) -> str:
    """Digest of an image's inputs in this repository: recipes, sources, builder.

    The packages' versions are the other inputs; apt resolves them when the image is built.
    """
    digest = hashlib.sha256(kind.encode())
    # hosts have the guest's init and tools, too
    folders = {"guest": ("base", "guest"), "host": ("base", "guest", "host")}[kind]
    sources = [path for path in FOLDER.glob("*.py") if path.name not in _STORE_MODULES]
    for folder in folders:
        sources += [p for p in (FOLDER / folder).rglob("*") if p.suffix in {".toml", ".c", ".h"}]
    for path in sorted(sources):
        digest.update(str(path.relative_to(FOLDER)).encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _toml(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text())
