"""Recipes: the contents of each image, as TOML files beside this module, and their digest."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["guest", "host", "workload"]

FOLDER = Path(__file__).resolve().parent
# The folders with the recipe of each kind; a later one adds to those before it.
_LAYERS: dict[Kind, tuple[str, ...]] = {
    "guest": ("base", "guest"),
    "host": ("base", "host"),
    "workload": ("base", "guest", "workload"),
}
_SOURCE_SUFFIXES = {".toml", ".c", ".h", ".sh"}
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
        database: add a PostgreSQL database; see database.py.
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
    database: bool
    ip: str


def load_recipe(kind: Kind) -> Recipe:
    """The recipe of one kind of image: the recipes of its layers, joined.

    Of files with the same path, that of the last layer counts.
    """
    layers = [_toml(FOLDER / layer / "recipe.toml") for layer in _LAYERS[kind]]
    last: dict[str, Any] = {name: value for layer in layers for name, value in layer.items()}

    def joined(name: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(one for layer in layers for one in layer.get(name, ())))

    files = {entry["path"]: entry for layer in layers for entry in layer.get("file", ())}
    return Recipe(
        kind=kind,
        packages=joined("packages"),
        drop=joined("drop"),
        exclude=joined("exclude"),
        modules=joined("modules"),
        pmem_modules=joined("pmem_modules"),
        late_modules=joined("late_modules"),
        directories=joined("directories"),
        links={path: to for layer in layers for path, to in layer.get("links", {}).items()},
        files=tuple(
            File(path, entry["text"].encode(), entry.get("mode", 0o644))
            for path, entry in files.items()
        ),
        free_mib=last["free_mib"],
        free_inodes=last["free_inodes"],
        need_mib=last["need_mib"],
        precompile_python=last["precompile_python"],
        database=last.get("database", False),
        ip=last.get("ip", ""),
    )


def tool_sources(kind: Kind) -> dict[str, tuple[Path, ...]]:
    """The C files of each static program in an image. A host has the guests' tools, too.

    A program is a file NAME.c, or a folder NAME of files, in the folder `tools` of a layer.
    """
    sources: dict[str, tuple[Path, ...]] = {}
    for layer in dict.fromkeys(("guest", *_LAYERS[kind])):
        for path in (FOLDER / layer / "tools").glob("hv-*"):
            sources[path.stem] = tuple(sorted(path.glob("*.c"))) if path.is_dir() else (path,)
    return dict(sorted(sources.items()))


def recipe_digest(kind: Kind) -> str:
    """Digest of an image's inputs in this repository: recipes, sources, builder.

    The packages' versions are the other inputs; apt resolves them when the image is built.
    """
    digest = hashlib.sha256(kind.encode())
    # hosts have the guest's init and tools, too
    folders = sorted({"guest", *_LAYERS[kind]})
    sources = [path for path in FOLDER.glob("*.py") if path.name not in _STORE_MODULES]
    for folder in folders:
        sources += [p for p in (FOLDER / folder).rglob("*") if p.suffix in _SOURCE_SUFFIXES]
    for path in sorted(sources):
        digest.update(str(path.relative_to(FOLDER)).encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _toml(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text())
