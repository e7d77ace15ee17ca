"""qemu-storage-daemon: one process for each guest, which serves its disks by vhost-user.

The daemon ends with the guest's process. Its sockets and overlays have no name in any file system.
An overlay holds what a guest writes to a disk that several guests share.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import tempfile
from typing import Any, Callable

from harness.kvm import libc
from harness.kvm.errors import ConfigError
from harness.vmm.config import Config, DiskConfig
from harness.vmm.devices.virtio.block import file_size, sector_count

from .process import child_setup, read_stat

PROGRAM = "qemu-storage-daemon"
HINT = "install qemu-utils on the host, or use the backend 'process' for the disk"
_SYS_IO_URING_SETUP = 425
_FLAGS = 6  # place in read_stat()
_PF_EXITING = 4  # include/linux/sched.h; set before the process closes its descriptors
_ERROR_LIMIT = 4096  # bytes of its standard error
# Messages about a guest that violates virtio: by its ring (libvhost-user), by a request.
_FAULT = re.compile(r"vu_panic: .*|virtio-blk request .*")
_NODE = re.compile(r"--blockdev \{.*\}: ")  # the daemon repeats an option in front of its error

# QEMU's docs/interop/qcow2.txt, version 3; all fields are big-endian
_QCOW2_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII")
_QCOW2_MAGIC = b"QFI\xfb"
_CLUSTER = 1 << 16
_L2_SPAN = _CLUSTER * (_CLUSTER // 8)  # bytes of the disk for each entry of the L1 table


def start_daemon(config: Config) -> StorageDaemon | None:
    """Start a daemon for the disks of the backend "vhost-user"; None if there are none.

    Replaces the backend "auto" of each disk. Raises ConfigError.
    """
    possible = shutil.which(PROGRAM) is not None and not config.mergeable
    for disk in config.disks:
        if disk.backend == "auto":
            disk.backend = "vhost-user" if possible else "process"
        if disk.backend == "vhost-user" and config.mergeable:
            cause = f"disk {disk.path}: mergeable memory cannot be shared with {disk.backend}"
            raise ConfigError(cause, "remove mergeable, or use the backend 'process'")
        if disk.backend == "process" and (disk.overlay or disk.format != "raw"):
            cause = f"disk {disk.path}: only {PROGRAM} supports overlays and {disk.format} images"
            raise ConfigError(cause, HINT)
    disks = [disk for disk in config.disks if disk.backend == "vhost-user"]
    return StorageDaemon(disks) if disks else None


class StorageDaemon:
    """A running daemon, which ends with this process. See vhost_user_block.StorageBackend."""

    def __init__(self, disks: list[DiskConfig]) -> None:
        """Starts the daemon without waiting: it reads requests on its sockets once it is up.
        Raises ConfigError."""
        program = shutil.which(PROGRAM)
        if program is None:
            raise ConfigError(f"{PROGRAM} is not installed", HINT)
        self._io_uring = _has_io_uring()
        self.aio: set[str] = set()
        self.sockets: list[socket.socket] = []
        inherited: list[int] = []
        argv = [program]
        for number, disk in enumerate(disks):
            client, listener = _listening_pair()
            self.sockets.append(client)
            inherited.append(listener)
            node = {**self._node(disk, inherited), "node-name": f"disk{number}"}
            export = {
                "type": "vhost-user-blk",
                "id": f"export{number}",
                "node-name": node["node-name"],
                "addr": {"type": "fd", "str": str(listener)},
                "writable": disk.writable,
            }
            argv += ["--blockdev", json.dumps(node), "--export", json.dumps(export)]
        self._errors = b""
        self._fault = ""
        self._lifeline, daemon_end = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=daemon_end.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=inherited,
                preexec_fn=_lifeline_setup(),  # noqa: PLW1509 (single-threaded here)
            )
        except OSError as error:
            raise ConfigError(f"{program}: {error.strerror}", HINT) from error
        finally:
            daemon_end.close()
            for fd in inherited:
                os.close(fd)
        assert self._process.stderr is not None
        self._stderr = self._process.stderr.fileno()
        os.set_blocking(self._stderr, False)
        self.pid = self._process.pid

    def _node(self, disk: DiskConfig, inherited: list[int]) -> dict[str, Any]:
        """The blockdev of a disk; an overlay's descriptor is appended to `inherited`."""
        size = _virtual_size(disk)
        base = self._file(disk.path, disk.direct, not disk.writable or bool(disk.overlay))
        if disk.format == "qcow2":
            base = {"driver": "qcow2", "file": base, "read-only": base["read-only"]}
        if not disk.overlay:
            return base
        try:
            overlay = _create_overlay(size, disk.overlay)
        except OSError as error:
            cause = f"disk {disk.path}: no overlay in {disk.overlay}: {error.strerror}"
            raise ConfigError(cause, "use a writable folder for overlays") from error
        inherited.append(overlay)
        file = self._file(f"/proc/self/fd/{overlay}", disk.direct, False)
        # an overlay is useless after its guest, so it need not reach the disk
        cache = {"direct": disk.direct, "no-flush": True}
        file["cache"] = cache
        return {"driver": "qcow2", "file": file, "backing": base, "cache": cache}

    def _file(self, path: str, direct: bool, readonly: bool) -> dict[str, Any]:
        aio = "io_uring" if self._io_uring else "native" if direct else "threads"
        self.aio.add(aio)
        return {
            "driver": "host_device" if stat.S_ISBLK(os.stat(path).st_mode) else "file",
            "filename": path,
            "read-only": readonly,
            "aio": aio,
            "cache": {"direct": direct},
        }

    def wait(self) -> None:
        """Wait until the daemon ends."""
        self._process.wait()

    def is_ending(self) -> bool:
        """Whether the daemon has ended, or has begun to: its peers see that before its parent."""
        try:
            flags = int(read_stat(self.pid)[_FLAGS])
        except OSError:
            return True
        return bool(flags & _PF_EXITING)

    def guest_fault(self) -> str:
        """See StorageBackend."""
        self._read_errors()
        return self._fault

    def exit_report(self) -> str:
        """See StorageBackend; the text is the end of its standard error."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)  # after a hang-up, the daemon is about to end
        self._read_errors()
        status = self._process.poll()
        end = "it is still running" if status is None else f"it ended with status {status}"
        if status is not None and status < 0:
            end = f"it got signal {-status} ({signal.Signals(-status).name})"
        errors = _NODE.sub("", self._errors.decode("utf-8", "replace")).strip()
        return f"{end}: {errors}" if errors else end

    def _read_errors(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._stderr, _ERROR_LIMIT):
                self._errors = (self._errors + data)[-_ERROR_LIMIT:]
                match = _FAULT.search(self._errors.decode("utf-8", "replace"))
                self._fault = self._fault or (match[0] if match else "")

    def close(self) -> None:
        """End the daemon."""
        self._lifeline.close()
        self._process.wait()


def _lifeline_setup() -> Callable[[], None]:
    """A function for Popen's preexec_fn: the child dies when the socket at its stdin hangs up.

    PR_SET_PDEATHSIG does not suffice: the kernel sends that signal with the privileges of the
    parent that ends, and a guest's process drops its user. SIGKILL by F_SETSIG (fcntl(2)) has the
    privileges of the process that calls F_SETOWN here.
    """
    setup = child_setup()

    def prepare() -> None:
        fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(0, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(0, fcntl.F_SETFL, os.O_RDWR | os.O_ASYNC)
        setup()  # it also detects a parent that has already ended

    return prepare


def _listening_pair() -> tuple[socket.socket, int]:
    """A connected socket, and the descriptor of the listening socket of its peer.

    The daemon requires a listening socket, to accept its client itself. That socket has an abstract
    name, which the kernel chooses. No other client can connect: the backlog has room for one
    connection, ours, and afterwards the socket is shut down for new ones.
    """
    listener, client = (socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(2))
    listener.bind("")
    listener.listen(0)
    client.setblocking(False)
    client.connect(listener.getsockname())
    client.setblocking(True)
    listener.shutdown(socket.SHUT_RD)
    return client, listener.detach()


def _create_overlay(size: int, folder: str) -> int:
    """The descriptor of an unnamed file in `folder`: an empty qcow2 image of `size` bytes.

    qemu-img would need more time than the rest of a guest's start. The clusters are: 0 the header,
    1 the refcount table, 2 its block, from 3 on the L1 table.
    """
    entries = -(-size // _L2_SPAN)
    used = 3 + -(-entries * 8 // _CLUSTER)
    header = _QCOW2_HEADER.pack(
        *(_QCOW2_MAGIC, 3, 0, 0, 16, size, 0, entries, 3 * _CLUSTER, _CLUSTER, 1, 0, 0),
        *(0, 1, 0, 4, _QCOW2_HEADER.size),  # compatible features: 1, lazy refcounts
    )
    with tempfile.TemporaryFile(dir=folder) as file:
        file.truncate(used * _CLUSTER)
        os.pwrite(file.fileno(), header, 0)
        os.pwrite(file.fileno(), struct.pack(">Q", 2 * _CLUSTER), _CLUSTER)
        os.pwrite(file.fileno(), struct.pack(">H", 1) * used, 2 * _CLUSTER)
        return os.dup(file.fileno())


def _virtual_size(disk: DiskConfig) -> int:
    """Bytes of a disk as its guest sees them. Raises ConfigError for a file that is no disk."""
    try:
        with open(disk.path, "rb") as file:
            size = file_size(file.fileno())
            head = file.read(_QCOW2_HEADER.size) if disk.format == "qcow2" else b""
    except OSError as error:
        raise ConfigError(f"disk {disk.path}: {error.strerror}", "check the path") from error
    if disk.format == "qcow2":
        if len(head) < _QCOW2_HEADER.size or head[:4] != _QCOW2_MAGIC:
            raise ConfigError(f"disk {disk.path}: it is no qcow2 image", "set its true format")
        size = _QCOW2_HEADER.unpack(head)[5]
    sector_count(disk.path, size)
    return size


def _has_io_uring() -> bool:
    """Whether this kernel has io_uring and permits it to us."""
    try:
        fd = libc.syscall(_SYS_IO_URING_SETUP, 1, ctypes.create_string_buffer(120))
    except OSError:
        return False
    os.close(fd)
    return True
