"""Writes "newc" cpio archives, the kernel's initramfs format. Equal entries give equal bytes.

Format: Documentation/driver-api/early-userspace/buffer-format.rst in the Linux sources.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field


@dataclass
class Cpio:
    """Collects entries in memory; `bytes(cpio)` is the archive, padded to 512 bytes."""

    _entries: list[bytes] = field(default_factory=list)

    def add_directory(self, path: str, mode: int = 0o755) -> None:
        """Add a directory; its parents must be in the archive already."""
        self._add(path, stat.S_IFDIR | mode, b"")

    def add_file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Add a regular file."""
        self._add(path, stat.S_IFREG | mode, data)

    def add_character_device(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Add a character device node."""
        self._add(path, stat.S_IFCHR | mode, b"", major, minor)

    def __bytes__(self) -> bytes:
        archive = b"".join([*self._entries, _entry(0, "TRAILER!!!", 0, b"")])
        return archive + bytes(-len(archive) % 512)

    def _add(self, path: str, mode: int, data: bytes, major: int = 0, minor: int = 0) -> None:
        # equal inode numbers would mean hard links
        number = len(self._entries) + 1
        entry = _entry(number, path.lstrip("/"), mode, data, major=major, minor=minor)
        self._entries.append(entry)


def _entry(
    inode: int, name: str, mode: int, data: bytes, *, major: int = 0, minor: int = 0
) -> bytes:
    encoded = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    # ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    fields = (inode, mode, 0, 0, links, 0, len(data), 0, 0, major, minor, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % value for value in fields)
    head = header + encoded
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
