"""A paused machine as two files in a folder: `memory`, sparse, and `state`, written last.

Clones map `memory` privately, so what they do not write they share, and it must stay as it is for
as long as one of them runs. Its last page, beyond guest memory, holds the id that the state names.
"""

from __future__ import annotations

import ctypes
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from harness.kvm import libc, state
from harness.kvm.errors import ConfigError, GuestFault

from .config import Config
from .memory import PAGE, Memory
from .state_reader import HINT, StateReader, packed, save

if TYPE_CHECKING:
    from .devices.virtio.transport import VirtioPci
    from .machine import Machine

VERSION = 4
_PIECE = 64 << 10  # what is all zero of that size becomes a hole
_BLOCK = 2 << 20
_ID_BYTES = 16
_STATE_LIMIT = 16 << 20


def take(machine: Machine, files: dict[str, int]) -> int:
    """Write a paused machine; the bytes of memory that are not zero. files: descriptors of the new
    files. Raises ConfigError for a machine whose files another cannot share."""
    if any(not one.readonly or one.overlay or one.format != "raw" for one in machine.config.disks):
        raise ConfigError("a disk that the guest writes cannot be shared", "give it read-only")
    if any(vcpu.asking for vcpu in machine.vcpus):
        raise ConfigError("a vCPU waits for an answer of the test's", "let its callback return")
    suspended: list[VirtioPci] = []
    try:
        for transport in machine.transports:
            transport.suspend()
            suspended.append(transport)
        return _write(files, asdict(machine.config), machine.memory, _save(machine))
    finally:
        for transport in suspended:
            transport.resume()


def _save(machine: Machine) -> dict[str, Any]:
    indices = state.msr_indices(machine.vm.kvm)
    with machine.buses.lock:
        return {
            "vcpus": [packed(state.save_vcpu(one, machine.vm, indices)) for one in machine.vcpus],
            "vm": packed(state.save_vm(machine.vm)),
            "serial": save(machine.serial) if machine.serial else {},
            "pm1": save(machine.pm1),
            "pci": machine.bridge.save(),
            "virtio": [transport.save() for transport in machine.transports],
        }


def restore(machine: Machine, saved: StateReader) -> None:
    """Put a snapshot's state into a machine that was just built; its devices go on when it runs.
    Raises ConfigError."""
    try:
        for vcpu, part in zip(machine.vcpus, saved.parts("vcpus", len(machine.vcpus))):
            state.restore_vcpu(vcpu, machine.vm, part)
        state.restore_vm(machine.vm, saved.part("vm"))
        if machine.serial:
            saved.part("serial").into(machine.serial)
        saved.part("pm1").into(machine.pm1)
        machine.bridge.restore(saved.part("pci"))
        parts = saved.parts("virtio", len(machine.transports))
        with machine.vm.routes_at_once():
            for device, part in zip(machine.transports, parts):
                device.restore(part)
    except GuestFault as error:
        raise ConfigError(f"snapshot: {error}", HINT) from error


def _write(
    files: dict[str, int], config: dict[str, Any], memory: Memory, machine: dict[str, Any]
) -> int:
    identity = os.urandom(_ID_BYTES)
    body = json.dumps({"config": config, "memory": identity.hex(), "machine": machine}).encode()
    head = json.dumps({"version": VERSION, "check": zlib.crc32(body)}).encode()
    try:
        kept = _write_memory(files["memory"], memory, identity)
        _write_all(files["state"], memoryview(head + b"\n" + body), 0)
    except OSError as error:
        hint = "give a folder with room for the guest's memory"
        raise ConfigError(f"snapshot: {error.strerror}", hint) from error
    return kept


def _write_memory(fd: int, memory: Memory, identity: bytes) -> int:
    kept = at = 0
    os.ftruncate(fd, memory.size + PAGE)  # first: a tmpfs with huge=within_size looks at it
    for region in memory.regions:
        for start in range(0, region.size, _BLOCK):
            end = min(start + _BLOCK, region.size)
            if _is_zero(region.hva + start, end - start):
                continue
            for piece in range(start, end, _PIECE):
                data = region.bytes[piece : min(piece + _PIECE, end)]
                if not _is_zero(region.hva + piece, len(data)):
                    _write_all(fd, data, at + piece)
                    kept += len(data)
        at += region.size
    _write_all(fd, memoryview(identity.ljust(PAGE, b"\0")), at)
    return kept


def _is_zero(address: int, size: int) -> bool:
    """Memory equals itself moved by a byte, and that byte is zero: it is all zero."""
    first = ctypes.c_ubyte.from_address(address).value
    return not first and not libc.memcmp(address, address + 1, size - 1)


def _write_all(fd: int, data: memoryview, offset: int) -> None:
    while data:
        done = os.pwrite(fd, data, offset)
        data, offset = data[done:], offset + done


class Snapshot:
    """A snapshot read back: `config`, and the machine's `state`, checked as it is taken."""

    def __init__(
        self, folder: str, changes: dict[str, Any], prefault_pages: Sequence[int] = ()
    ) -> None:
        """changes: fields of the configuration that differ in a clone. prefault_pages: pages that
        are copied before it runs, see Memory.copy. Raises ConfigError for what is missing,
        broken, or of another version."""
        self.folder = folder
        self._prefault_pages = prefault_pages
        body = parse(_read(f"{folder}/state"))
        self._identity = body.field("memory", str)
        config = body.field("config", dict)
        self.config = Config.parse({**config, **changes})
        for disk in self.config.disks:
            disk.backend = "process"  # who maps the file does not see what this clone writes
        self.config.hugepages = self.config.mergeable = False  # it is a mapping of the file
        own = config.get("memory"), config.get("vcpus")
        if own != (self.config.memory, self.config.vcpus):
            raise ConfigError("a clone has its snapshot's memory and vCPUs", "ask for no other")
        self.state = body.part("machine")

    def memory(self) -> Memory:
        """Guest memory over the file. Raises ConfigError for a file that is not this snapshot's."""
        path, size = f"{self.folder}/memory", self.config.memory << 20
        try:
            with open(path, "rb", buffering=0) as file:
                fd = file.fileno()
                whole = os.fstat(fd).st_size == size + PAGE
                if not whole or os.pread(fd, _ID_BYTES, size).hex() != self._identity:
                    raise ConfigError(f"{path} is not this snapshot's memory", HINT)
                memory = Memory(size, file=fd)  # the mapping stays
            memory.copy(self._prefault_pages)
            return memory
        except OSError as error:
            raise ConfigError(f"snapshot {path}: {error.strerror}", HINT) from error
        except GuestFault as error:
            raise ConfigError(f"prefault_pages: {error}", "give what another clone told") from error


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_STATE_LIMIT)
    except OSError as error:
        raise ConfigError(f"snapshot {path}: {error.strerror}", HINT) from error


def parse(data: bytes) -> StateReader:
    head, _, body = data.partition(b"\n")
    try:
        whole = StateReader("file", json.loads(head))
        if (version := whole.number("version", 1 << 16)) != VERSION:
            raise ConfigError(f"snapshot: version {version}, this is {VERSION}", HINT)
        if zlib.crc32(body) != whole.number("check", 1 << 32):
            raise ConfigError("snapshot: its state is cut short or was changed", HINT)
        return StateReader("body", json.loads(body))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"snapshot: its state cannot be read: {error}", HINT) from error
