"""Builds root file systems without root rights: packages become one tar, the tar becomes ext2."""

from __future__ import annotations

import io
import re
import stat
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import translate
from pathlib import Path
from typing import IO

from .run import run

BLOCK = 4096
# Debian merged these into /usr, but packages still have the old paths.
_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")


@dataclass
class RootTar:
    """Writes a root file system's tar and counts the blocks and inodes that ext2 needs.

    The first entry of a path wins: add a recipe's files before packages.
    """

    tar: tarfile.TarFile
    exclude: Sequence[str] = ()
    blocks: int = 0
    inodes: int = 0
    _paths: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._excluded = re.compile("|".join(map(translate, self.exclude)) or r"(?!)")
        for name in ("bin", "sbin", "lib", "lib64"):
            self.add_link(f"/{name}", f"usr/{name}")

    def add_directory(self, path: str, mode: int = 0o755) -> None:
        """Add a directory and its parents."""
        self._add_parents(path)
        info = tarfile.TarInfo(canonical_path(path))
        info.type, info.mode = tarfile.DIRTYPE, mode
        self._add(info, None)

    def add_file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Add a regular file owned by root."""
        self._add_parents(path)
        info = tarfile.TarInfo(canonical_path(path))
        info.size, info.mode = len(data), mode
        self._add(info, io.BytesIO(data))

    def add_link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self._add_parents(path)
        info = tarfile.TarInfo(path.strip("/"))
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, target, 0o777
        self._add(info, None)

    def add_tree(self, path: str, source: Path, owner: int) -> None:
        """Add a folder of this machine and its regular files. `owner` is the uid and the gid."""
        self._add_parents(path)
        for entry in (source, *sorted(source.rglob("*"))):
            name = canonical_path(f"{path}/{entry.relative_to(source)}".removesuffix("/."))
            info = tarfile.TarInfo(name)
            info.uid = info.gid = owner
            info.mode = stat.S_IMODE(entry.stat().st_mode)
            if entry.is_dir():
                info.type = tarfile.DIRTYPE
                self._add(info, None)
                continue
            info.size = entry.stat().st_size
            with entry.open("rb") as data:
                self._add(info, data)

    def add_packages(self, debs: Sequence[Path]) -> None:
        """Add the contents of Debian packages, in this order."""
        for archive in _filesystem_tars(debs):
            with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as source:
                for info in source:
                    self._add_member(source, info)

    def _add_member(self, source: tarfile.TarFile, info: tarfile.TarInfo) -> None:
        info.name = canonical_path(info.name)
        if not info.name or info.name in _MERGED or self._excluded.match(info.name):
            return
        if info.islnk():
            info.linkname = canonical_path(info.linkname)
        self._add_parents(info.name)  # no package contains /usr/lib64 itself
        info.uname = info.gname = ""
        self._add(info, source.extractfile(info) if info.isreg() else None)

    def _add(self, info: tarfile.TarInfo, data: IO[bytes] | None) -> None:
        if info.name in self._paths:
            return
        self._paths.add(info.name)
        self.tar.addfile(info, data)
        self.inodes += not info.islnk()
        data_blocks = -(-info.size // BLOCK)
        # ext2 has an indirect block for each 1024 data blocks, and one for each level
        indirect = data_blocks // 1024 + (2 if data_blocks > 12 else 0)
        self.blocks += data_blocks + indirect + info.isdir()

    def _add_parents(self, path: str) -> None:
        parts = canonical_path(path).split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            parent = "/".join(parts[:depth])
            if parent not in self._paths:
                info = tarfile.TarInfo(parent)
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                self._add(info, None)


def canonical_path(path: str) -> str:
    """A package's path on a merged system: without leading ./, and usr/bin/x for bin/x."""
    path = path.removeprefix(".").strip("/")
    top, slash, _ = path.partition("/")
    return f"usr/{path}" if slash and top in _MERGED else path


def _filesystem_tars(debs: Sequence[Path]) -> Iterator[bytes]:
    """Each package's file system tar; two threads decompress the next ones."""
    with ThreadPoolExecutor(2) as pool:
        futures = []
        for deb in debs:
            futures.append(pool.submit(run, ["dpkg-deb", "--fsys-tarfile", str(deb)]))
            if len(futures) > 2:
                yield futures.pop(0).result()
        for future in futures:
            yield future.result()


def make_ext2(tar: Path, image: Path, *, blocks: int, inodes: int) -> None:
    """Make a sparse ext2 image from a tar. Equal tars give equal bytes.

    Args:
        blocks: size in blocks of 4 KiB, without the file system's tables.
        inodes: number of files, links and folders that fit.
    """
    # the tables: 128 bytes an inode, two bitmaps and descriptors a group of 32768 blocks
    inodes += 16
    total = blocks + inodes * 128 // BLOCK + (blocks // 32768 + 2) * 8 + 64
    argv = ["genext2fs", "-f", "-B", str(BLOCK), "-b", str(total), "-N", str(inodes)]
    argv += ["-m", "0", "-a", str(tar), str(image)]
    run(argv)


def unpack_packages(debs: Sequence[Path], into: Path) -> None:
    """Unpack packages into a folder of this machine, to run their programs."""
    for deb in debs:
        run(["dpkg-deb", "-x", str(deb), str(into)])
