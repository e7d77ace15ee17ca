"""qemu-storage-daemon: one process a guest that serves its disks by vhost-user.

It dies with the guest's process and has no name in any file system: not its sockets, nor the
overlays, which hold what a guest writes over a disk that others share.
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

from .process import bound_to_us

PROGRAM = "qemu-storage-daemon"
HINT = "install qemu-utils on the host, or give the disk the backend 'process'"
_SYS_IO_URING_SETUP = 425
_WORDS = 4096  # bytes of its standard error that are kept
# What it says of a guest that broke the rules: the ring's (libvhost-user), a request's.
_FAULT = re.compile(r"vu_panic: .*|virtio-blk request .*")
_NODE = re.compile(r"--blockdev \{.*\}: ")  # it repeats our own words before its own

# QEMU's docs/interop/qcow2.txt, version 3. All is big-endian.
_QCOW2_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII")
_QCOW2_MAGIC = b"QFI\xfb"
_CLUSTER = 1 << 16
_L2_SPAN = _CLUSTER * (_CLUSTER // 8)  # bytes of the disk behind one entry of the L1 table


def start_daemon(config: Config) -> StorageDaemon | None:
    """The daemon for the disks that are to have one, None if no disk is. Sets each disk's
    `backend` to what it has become. Raises ConfigError."""
    possible = shutil.which(PROGRAM) is not None and not config.mergeable
    for disk in config.disks:
        if disk.backend == "auto":
            disk.backend = "vhost-user" if possible else "process"
        if disk.backend == "vhost-user" and config.mergeable:
            cause = f"disk {disk.path}: mergeable memory cannot be shared with {disk.backend}"
            raise ConfigError(cause, "leave mergeable out, or give the backend 'process'")
        if disk.backend == "process" and (disk.overlay or disk.format != "raw"):
            cause = f"disk {disk.path}: only {PROGRAM} knows overlays and {disk.format} images"
            raise ConfigError(cause, HINT)
    disks = [disk for disk in config.disks if disk.backend == "vhost-user"]
    return StorageDaemon(disks) if disks else None


class StorageDaemon:
    """A running daemon; it ends with this process. See vhost_user_block.StorageBackend."""

    def __init__(self, disks: list[DiskConfig]) -> None:
        """Starts it and does not wait: what is said to a socket waits there until it is up.
        Raises ConfigError."""
        program = shutil.which(PROGRAM)
        if program is None:
            raise ConfigError(f"there is no {PROGRAM}", HINT)
        self._io_uring = _has_io_uring()
        self.aio: set[str] = set()
        self.sockets: list[socket.socket] = []
        inherited: list[int] = []
        argv = [program]
        for number, disk in enumerate(disks):
            ours, theirs = _listening_pair()
            self.sockets.append(ours)
            inherited.append(theirs)
            node = {**self._node(disk, inherited), "node-name": f"disk{number}"}
            export = {
                "type": "vhost-user-blk",
                "id": f"export{number}",
                "node-name": node["node-name"],
                "addr": {"type": "fd", "str": str(theirs)},
                "writable": disk.writable,
            }
            argv += ["--blockdev", json.dumps(node), "--export", json.dumps(export)]
        self._words = b""
        self._fault = ""
        self._life, its_end = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=its_end.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=inherited,
                preexec_fn=_bound_by_stdin(),  # noqa: PLW1509 (single-threaded here)
            )
        except OSError as error:
            raise ConfigError(f"{program}: {error.strerror}", HINT) from error
        finally:
            its_end.close()
            for fd in inherited:
                os.close(fd)
        assert self._process.stderr is not None
        self._stderr = self._process.stderr.fileno()
        os.set_blocking(self._stderr, False)
        self.pid = self._process.pid

    def _node(self, disk: DiskConfig, inherited: list[int]) -> dict[str, Any]:
        """The blockdev of a disk; an overlay's descriptor is added to those it inherits."""
        size = _virtual_size(disk)
        base = self._file(disk.path, disk.direct, not disk.writable or bool(disk.overlay))
        if disk.format == "qcow2":
            base = {"driver": "qcow2", "file": base, "read-only": base["read-only"]}
        if not disk.overlay:
            return base
        try:
            overlay = _overlay(size, disk.overlay)
        except OSError as error:
            cause = f"disk {disk.path}: no overlay in {disk.overlay}: {error.strerror}"
            raise ConfigError(cause, "give it a folder that can be written to") from error
        inherited.append(overlay)
        file = self._file(f"/proc/self/fd/{overlay}", disk.direct, False)
        # nobody sees an overlay after its guest: it need never be on the disk
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
        """Until it ends."""
        self._process.wait()

    def guest_fault(self) -> str:
        """See StorageBackend."""
        self._read_words()
        return self._fault

    def exit_report(self) -> str:
        """See StorageBackend: the end of its standard error."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.2)  # who hung up is about to end
        self._read_words()
        status = self._process.poll()
        end = "it is still running" if status is None else f"it ended with status {status}"
        if status is not None and status < 0:
            end = f"it got signal {-status} ({signal.Signals(-status).name})"
        words = _NODE.sub("", self._words.decode("utf-8", "replace")).strip()
        return f"{end}: {words}" if words else end

    def _read_words(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._stderr, _WORDS):
                self._words = (self._words + data)[-_WORDS:]
                found = _FAULT.search(self._words.decode("utf-8", "replace"))
                self._fault = self._fault or (found[0] if found else "")

    def close(self) -> None:
        """End it, and with it all that it serves."""
        self._life.close()
        self._process.wait()


def _bound_by_stdin() -> Callable[[], None]:
    """For Popen's preexec_fn: the child dies when the socket on its standard input hangs up.

    That is to come as SIGKILL (fcntl(2), F_SETSIG), by the right of who says so here. The kernel
    sends PR_SET_PDEATHSIG's by the right of who dies, and a guest's process gives up its user.
    """
    bound = bound_to_us()

    def prepare() -> None:
        fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(0, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(0, fcntl.F_SETFL, os.O_RDWR | os.O_ASYNC)
        bound()  # which also sees that nobody has died meanwhile

    return prepare


def _listening_pair() -> tuple[socket.socket, int]:
    """A connected socket, and the descriptor of the listening one at whose other end it waits.

    The daemon wants to accept its client by itself, and a listening socket needs a name: one of
    the abstract ones, that the kernel chooses. Nobody else gets in by it: there is room for one
    connection (a backlog of 0), ours, and then the door is shut.
    """
    listener, client = (socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(2))
    listener.bind("")
    listener.listen(0)
    client.setblocking(False)
    client.connect(listener.getsockname())
    client.setblocking(True)
    listener.shutdown(socket.SHUT_RD)
    return client, listener.detach()


def _overlay(size: int, folder: str) -> int:
    """The descriptor of a file without a name in `folder`: an empty qcow2 image of `size` bytes.

    Written here, as another program's start would cost the guest's boot more than all the rest.
    Cluster 0 has the header, 1 the refcount table, 2 its block, 3 and on the L1 table.
    """
    entries = -(-size // _L2_SPAN)
    used = 3 + -(-entries * 8 // _CLUSTER)
    header = _QCOW2_HEADER.pack(
        *(_QCOW2_MAGIC, 3, 0, 0, 16, size, 0, entries, 3 * _CLUSTER, _CLUSTER, 1, 0, 0),
        *(0, 1, 0, 4, _QCOW2_HEADER.size),  # compatible: 1, refcounts may be lazy
    )
    with tempfile.TemporaryFile(dir=folder) as file:
        file.truncate(used * _CLUSTER)
        os.pwrite(file.fileno(), header, 0)
        os.pwrite(file.fileno(), struct.pack(">Q", 2 * _CLUSTER), _CLUSTER)
        os.pwrite(file.fileno(), struct.pack(">H", 1) * used, 2 * _CLUSTER)
        return os.dup(file.fileno())


def _virtual_size(disk: DiskConfig) -> int:
    """Bytes of a disk as a guest sees it. Raises ConfigError for what cannot be one."""
    try:
        with open(disk.path, "rb") as file:
            size = file_size(file.fileno())
            head = file.read(_QCOW2_HEADER.size) if disk.format == "qcow2" else b""
    except OSError as error:
        raise ConfigError(f"disk {disk.path}: {error.strerror}", "check the path") from error
    if disk.format == "qcow2":
        if len(head) < _QCOW2_HEADER.size or head[:4] != _QCOW2_MAGIC:
            raise ConfigError(f"disk {disk.path}: it is no qcow2 image", "give its true format")
        size = _QCOW2_HEADER.unpack(head)[5]
    sector_count(disk.path, size)
    return size


def _has_io_uring() -> bool:
    """Whether this kernel gives it to us: it may be compiled out or forbidden."""
    try:
        fd = libc.syscall(_SYS_IO_URING_SETUP, 1, ctypes.create_string_buffer(120))
    except OSError:
        return False
    os.close(fd)
    return True
