"""A snapshot's two files in a folder: `memory`, a sparse file, and `state`, which is written last.

Clones map `memory` privately and share the pages that they do not write. The file must not change
while a clone runs. The page after guest memory holds an id, which the state file repeats.
"""

from __future__ import annotations

import ctypes
import json
import os
import zlib
from collections.abc import Sequence
from typing import Any

from harness.kvm import libc
from harness.kvm.errors import ConfigError, GuestFault

from .config import Config
from .memory import PAGE, Memory
from .state_reader import HINT, StateReader

VERSION = 5
_HOLE_SIZE = 64 << 10  # pieces of this size that are all zero become holes
_BLOCK_SIZE = 2 << 20
_ID_BYTES = 16
_STATE_LIMIT = 16 << 20


def write(files: dict[str, int], config: dict[str, Any], memory: Memory, state: Any) -> int:
    """Write both files. Returns the bytes of memory that are not zero.

    files: descriptors of the new files "memory" and "state". state: the machine's, as JSON can hold
    it. Raises ConfigError.
    """
    identity = os.urandom(_ID_BYTES)
    body = json.dumps({"config": config, "memory": identity.hex(), "machine": state}).encode()
    head = json.dumps({"version": VERSION, "check": zlib.crc32(body)}).encode()
    try:
        size = _write_memory(files["memory"], memory, identity)
        _write_all(files["state"], memoryview(head + b"\n" + body), 0)
    except OSError as error:
        hint = "choose a folder with room for the guest's memory"
        raise ConfigError(f"snapshot: {error.strerror}", hint) from error
    return size


def _write_memory(fd: int, memory: Memory, identity: bytes) -> int:
    written = at = 0
    os.ftruncate(fd, memory.size + PAGE)  # first: a tmpfs with huge=within_size depends on it
    for region in memory.regions:
        for start in range(0, region.size, _BLOCK_SIZE):
            end = min(start + _BLOCK_SIZE, region.size)
            if _is_zero(region.hva + start, end - start):
                continue
            for piece in range(start, end, _HOLE_SIZE):
                data = region.bytes[piece : min(piece + _HOLE_SIZE, end)]
                if not _is_zero(region.hva + piece, len(data)):
                    _write_all(fd, data, at + piece)
                    written += len(data)
        at += region.size
    _write_all(fd, memoryview(identity.ljust(PAGE, b"\0")), at)
    return written


def _is_zero(address: int, size: int) -> bool:
    """Whether memory is all zero: its first byte is, and each byte equals the one before."""
    first = ctypes.c_ubyte.from_address(address).value
    return not first and not libc.memcmp(address, address + 1, size - 1)


def _write_all(fd: int, data: memoryview, offset: int) -> None:
    while data:
        done = os.pwrite(fd, data, offset)
        data, offset = data[done:], offset + done


class Snapshot:
    """A snapshot that was read back. config: the clone's. state: the machine's, checked as it is
    read."""

    def __init__(
        self, folder: str, changes: dict[str, Any], prefault_pages: Sequence[int] = ()
    ) -> None:
        """changes: fields of the configuration that differ in the clone. prefault_pages: see
        Memory.prefault. Raises ConfigError for files that are missing, broken or of another
        version."""
        self.folder = folder
        self._prefault_pages = prefault_pages
        body = parse(_read(f"{folder}/state"))
        self._identity = body.read_value("memory", str)
        config = body.read_value("config", dict)
        self.config = Config.parse({**config, **changes})
        for disk in self.config.disks:
            # the clone's memory is private: a vhost-user daemon would not see its writes
            disk.backend = "process"
        self.config.hugepages = False  # memory is a mapping of the file
        size = config.get("memory"), config.get("vcpus")
        if size != (self.config.memory, self.config.vcpus):
            raise ConfigError(
                "a clone has its snapshot's memory and vCPUs", "do not change memory or vcpus"
            )
        self.state = body.read_object("machine")

    def memory(self) -> Memory:
        """Guest memory as a private mapping of the file. Raises ConfigError for another file."""
        path, size = f"{self.folder}/memory", self.config.memory << 20
        try:
            with open(path, "rb", buffering=0) as file:
                fd = file.fileno()
                complete = os.fstat(fd).st_size == size + PAGE
                if not complete or os.pread(fd, _ID_BYTES, size).hex() != self._identity:
                    raise ConfigError(f"{path} is not this snapshot's memory", HINT)
                # the mapping outlives the descriptor
                memory = Memory(size, file=fd, mergeable=self.config.mergeable)
            memory.prefault(self._prefault_pages)
            return memory
        except OSError as error:
            raise ConfigError(f"snapshot {path}: {error.strerror}", HINT) from error
        except GuestFault as error:
            hint = "pass the pages that another clone reported"
            raise ConfigError(f"prefault_pages: {error}", hint) from error


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_STATE_LIMIT)
    except OSError as error:
        raise ConfigError(f"snapshot {path}: {error.strerror}", HINT) from error


def parse(data: bytes) -> StateReader:
    """The body of a state file: its version and its checksum are right. Raises ConfigError."""
    head, _, body = data.partition(b"\n")
    try:
        header = StateReader("file", json.loads(head))
        if (version := header.read_int("version", 1 << 16)) != VERSION:
            raise ConfigError(f"snapshot: version {version}, this is {VERSION}", HINT)
        if zlib.crc32(body) != header.read_int("check", 1 << 32):
            raise ConfigError("snapshot: its state is cut short or was changed", HINT)
        return StateReader("body", json.loads(body))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"snapshot: its state cannot be read: {error}", HINT) from error
