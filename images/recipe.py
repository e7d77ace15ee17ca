"""Recipes: what an image is made of, as TOML beside this module, and the key they give."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["guest", "host"]

HERE = Path(__file__).resolve().parent
# These modules keep and hand out images; what an image contains does not depend on them.
_NO_CONTENT = {"__init__.py", "__main__.py", "store.py", "lock.py", "keys.py"}


@dataclass(frozen=True)
class File:
    """A file of our own in the root file system; `path` is absolute inside the image."""

    path: str
    data: bytes
    mode: int = 0o644


@dataclass(frozen=True)
class Recipe:
    """One image's contents. Sizes in MiB; `exclude` and `drop` are shell patterns."""

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


def load(kind: Kind) -> Recipe:
    """The recipe of one kind of image: `base/recipe.toml` and its own, joined."""
    base = _toml(HERE / "base" / "recipe.toml")
    own = _toml(HERE / kind / "recipe.toml")

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


def key(kind: Kind) -> str:
    """Digest of all that decides an image's contents on our side: recipes, sources, builder.

    The packages' versions are the other half; they enter when the image is built.
    """
    digest = hashlib.sha256(kind.encode())
    own = {"guest": ("base", "guest"), "host": ("base", "guest", "host")}[kind]
    sources = [path for path in HERE.glob("*.py") if path.name not in _NO_CONTENT]
    for folder in own:
        sources += [p for p in (HERE / folder).rglob("*") if p.suffix in {".toml", ".c", ".h"}]
    for path in sorted(sources):
        digest.update(str(path.relative_to(HERE)).encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _toml(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text())
