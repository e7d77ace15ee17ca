"""Root file systems without rights: packages' contents merged into a tar, the tar made ext2."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import translate
from pathlib import Path
from typing import IO

from .run import run

BLOCK = 4096
# Debian merged these into /usr; packages still ship the old paths.
_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")


@dataclass
class Root:
    """Writes a root file system's tar in a fixed order, and counts what ext2 will need.

    The first entry of a path wins, so files of our own go in before packages.
    """

    tar: tarfile.TarFile
    exclude: Sequence[str] = ()
    blocks: int = 0
    inodes: int = 0
    _seen: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._excluded = re.compile("|".join(map(translate, self.exclude)) or r"(?!)")
        for name in ("bin", "sbin", "lib", "lib64"):
            self.link(f"/{name}", f"usr/{name}")

    def directory(self, path: str, mode: int = 0o755) -> None:
        """Add a directory and its parents."""
        self._parents(path)
        info = tarfile.TarInfo(canonical(path))
        info.type, info.mode = tarfile.DIRTYPE, mode
        self._add(info, None)

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Add a regular file owned by root."""
        self._parents(path)
        info = tarfile.TarInfo(canonical(path))
        info.size, info.mode = len(data), mode
        self._add(info, io.BytesIO(data))

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self._parents(path)
        info = tarfile.TarInfo(path.strip("/"))
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, target, 0o777
        self._add(info, None)

    def packages(self, debs: Sequence[Path]) -> None:
        """Add the contents of Debian packages, in the order given."""
        for archive in _unpacked(debs):
            with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as source:
                for info in source:
                    self._take(source, info)

    def _take(self, source: tarfile.TarFile, info: tarfile.TarInfo) -> None:
        info.name = canonical(info.name)
        if not info.name or info.name in _MERGED or self._excluded.match(info.name):
            return
        if info.islnk():
            info.linkname = canonical(info.linkname)
        self._parents(info.name)  # /usr/lib64 is in no package
        info.uname = info.gname = ""
        self._add(info, source.extractfile(info) if info.isreg() else None)

    def _add(self, info: tarfile.TarInfo, data: IO[bytes] | None) -> None:
        if info.name in self._seen:
            return
        self._seen.add(info.name)
        self.tar.addfile(info, data)
        self.inodes += not info.islnk()
        whole = -(-info.size // BLOCK)
        # indirect blocks: one for each 1024 data blocks, and one for each level
        self.blocks += whole + whole // 1024 + (2 if whole > 12 else 0) + info.isdir()

    def _parents(self, path: str) -> None:
        parts = canonical(path).split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            parent = "/".join(parts[:depth])
            if parent not in self._seen:
                info = tarfile.TarInfo(parent)
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                self._add(info, None)


def canonical(path: str) -> str:
    """A package's path as it is on a merged system: no leading ./, bin/x under usr/."""
    path = path.removeprefix(".").strip("/")
    top, slash, _ = path.partition("/")
    return f"usr/{path}" if slash and top in _MERGED else path


def _unpacked(debs: Sequence[Path]) -> Iterator[bytes]:
    """Each package's file system tar; the next two are decompressed meanwhile."""
    with ThreadPoolExecutor(2) as pool:
        ahead = []
        for deb in debs:
            ahead.append(pool.submit(run, ["dpkg-deb", "--fsys-tarfile", str(deb)]))
            if len(ahead) > 2:
                yield ahead.pop(0).result()
        for future in ahead:
            yield future.result()


def make_ext2(tar: Path, image: Path, *, blocks: int, inodes: int) -> None:
    """Make a sparse ext2 image with the tar's contents, the same bytes every time.

    Args:
        blocks: size in blocks of 4 KiB, the file system's own tables not counted.
        inodes: how many files, links and folders it can hold.
    """
    # tables: an inode is 128 bytes, a group of 32768 blocks has two bitmaps and descriptors
    inodes += 16
    total = blocks + inodes * 128 // BLOCK + (blocks // 32768 + 2) * 8 + 64
    argv = ["genext2fs", "-f", "-B", str(BLOCK), "-b", str(total), "-N", str(inodes)]
    argv += ["-m", "0", "-a", str(tar), str(image)]
    run(argv)


def unpack(debs: Sequence[Path], into: Path) -> None:
    """Unpack packages on this machine, to run a program of theirs."""
    for deb in debs:
        run(["dpkg-deb", "-x", str(deb), str(into)])
