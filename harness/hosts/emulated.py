"""A host in software emulation: QEMU without KVM boots a Debian kernel, which offers KVM."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from harness.errors import HostError, SSHError
from harness.hosts.qemu import Qemu
from harness.hosts.remote import RemoteHost
from harness.hosts.ssh import tcp
from harness.ssh.errors import SSHRefused
from harness.ssh.session import SSHSession

if TYPE_CHECKING:
    from images.image import HostImage

# Bytes from which a file becomes a disk: SSH takes 0.4 s and 17 MB/s, a new disk 0.12 s.
DISK_THRESHOLD = 1 << 20
SCSI_TARGETS = 256  # per virtio-scsi bus; more disks become further units of each target
MAX_CODE_BUFFER_FILL = 0.65  # fraction of QEMU's code buffer
RESERVED_MEMORY = 1024  # MiB of the host's memory that snapshots leave for guests
# prints in MiB: available memory, free space in /dev/shm
_FREE_MEMORY_SCRIPT = """
awk '/^MemAvailable/ { printf "%d ", $2 / 1024 }' /proc/meminfo
df --output=avail -BM /dev/shm | tail -n 1 | tr -d M
"""
READY_LINE = "harness: sshd"  # the init prints it when the host's SSH server listens


class EmulatedHost(RemoteHost):
    """See Host. A session boots one. It ends at close(), or with this process."""

    emulated = True

    def __init__(
        self,
        image: HostImage,
        *,
        reason: str = "requested",
        progress: Callable[[str], None] = lambda _text: None,
        cpus: int = 2,
        memory: int = 4096,
        boot_timeout: float = 120.0,
    ) -> None:
        """Boot the host and wait for SSH. Raises HostError with the last console lines.

        memory: MiB. boot_timeout: seconds. progress: called with lines for the user.
        """
        start = time.monotonic()
        self._disks = 0
        self._replacement_reason = ""
        self._progress = progress
        self._disk_lock = threading.Lock()
        self._qemu = Qemu(image.kernel, image.initramfs, image.disk, cpus=cpus, memory=memory)
        try:
            session = self._login(image, start + boot_timeout, boot_timeout)
        except BaseException:  # also KeyboardInterrupt: QEMU must end
            self._qemu.close()
            raise
        super().__init__("emulated", reason, session)
        progress(f"emulated host ready in {time.monotonic() - start:.1f} s")

    def _login(self, image: HostImage, end: float, boot_timeout: float) -> SSHSession:
        """Wait for the line of its SSH server, then log in.

        The server may refuse for a moment after the line. `end`: a time.monotonic().
        """
        qemu = self._qemu
        listening = qemu.wait_for(READY_LINE, end - time.monotonic())
        while listening:
            try:
                return SSHSession.connect(
                    lambda remaining: tcp("127.0.0.1", qemu.ssh_port, remaining),
                    user="root",
                    client_key=image.client_key,
                    host_key=image.host_key,
                    timeout=max(end - time.monotonic(), 1.0),
                    server_name="the emulated host",
                )
            except SSHRefused:
                if qemu.ended:
                    raise qemu.exit_error() from None
                if time.monotonic() > end:
                    break
                time.sleep(0.05)
            except SSHError as error:
                raise HostError(
                    error.cause, hint=error.hint, stage="host", console=qemu.console_tail()
                ) from error
        raise HostError(
            f"the emulated host was not ready in {boot_timeout:g} s",
            hint="read the console's last lines; a busy machine needs more time",
            stage="host",
            console=qemu.console_tail(),
        )

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._qemu.pid

    def console(self) -> str:
        """The text of the host's console so far."""
        return self._qemu.console()

    @property
    def needs_replacement(self) -> bool:
        """See Host. True when a fault of QEMU's may break or slow later guests.

        The fault is described at CODE_BUFFER in qemu.py.
        """
        buffer = self._qemu.code_buffer()
        full = buffer is None or buffer[0] > MAX_CODE_BUFFER_FILL or buffer[1] > 0
        return full or bool(self._replacement_reason)

    @property
    def replacement_reason(self) -> str:
        """See Host."""
        return self._replacement_reason

    def request_replacement(self, reason: str) -> None:
        """See Host."""
        self._replacement_reason = self._replacement_reason or reason

    @property
    def tainted(self) -> bool:
        """See Host. True when that fault may have broken earlier guests."""
        buffer = self._qemu.code_buffer()
        return buffer is None or buffer[1] > 0

    def scratch(self, mapped: int = 0) -> str:
        """See Host. A mapped file goes to /dev/shm, which has huge pages on this host.

        set_up_root() in images/guest/boot.c mounts it.
        """
        if mapped:
            available, free = map(int, self.run(["sh", "-c", _FREE_MEMORY_SCRIPT]).stdout.split())
            if min(available - RESERVED_MEMORY, free) > mapped:
                return "/dev/shm"  # noqa: S108 - no other user is on this host
        return super().scratch()

    def _transfer(self, path: Path, size: int, *, regular: bool) -> str:
        """See RemoteHost. Large files are attached as read-only disks, without a copy; the host
        copies the disk for a regular file, which is faster than SSH."""
        if size < DISK_THRESHOLD:
            return super()._transfer(path, size, regular=regular)
        if not regular:
            return self._attach_disk(path)
        disk = self.place(path)
        copy = f"{super().scratch()}/{PurePosixPath(disk).name}-{path.name}"
        count = ["bs=1M", "iflag=count_bytes,fullblock", f"count={size}", "status=none"]
        self.run(["dd", f"if={disk}", f"of={copy}", *count], timeout=60 + size / (1 << 20))
        self.run(["chmod", "700", copy])
        return copy

    def _attach_disk(self, path: Path) -> str:
        """Attach a file as a SCSI disk. Returns the path of its block device."""
        with self._disk_lock:
            number, self._disks = self._disks, self._disks + 1
        target, unit = number % SCSI_TARGETS, number // SCSI_TARGETS
        node = f"placed{number}"
        qmp = self._qemu.qmp
        try:
            qmp.execute(
                "blockdev-add",
                driver="raw",
                node_name=node,
                read_only=True,
                file={"driver": "file", "filename": str(path.resolve()), "read-only": True},
            )
            qmp.execute(
                "device_add",
                driver="scsi-hd",
                bus="scsi.0",
                drive=node,
                channel=0,
                scsi_id=target,
                lun=unit,
                id=f"disk{number}",
            )
        except HostError as error:
            raise HostError(
                f"{path} cannot be attached to the emulated host: {error.cause}",
                hint="check that the file is readable",
                stage="host",
            ) from error
        # The disk's address on the bus is known, so the script waits for one sysfs path. A sleeping
        # process keeps the device open: its last close would drop the page cache, and each guest
        # would read its kernel from the disk again.
        script = (
            f"for i in $(seq 200); do set -- /sys/bus/scsi/devices/*:0:{target}:{unit}/block/*; "
            'disk=/dev/${1##*/}; [ -b "$disk" ] || { sleep 0.05; continue; }; '
            'sleep infinity <"$disk" >/dev/null 2>&1 & echo "$disk"; exit; done; exit 1'
        )
        result = self.run(["sh", "-c", script], check=False)
        if result.status != 0:
            raise HostError(
                f"the emulated host does not see the disk for {path}",
                hint="add the modules virtio_scsi and sd_mod to its kernel",
                stage="host",
                console=self._qemu.console_tail(),
            )
        return result.stdout.strip()

    def _host_error(self, error: SSHError) -> HostError:
        # the end of QEMU is the cause; the broken SSH connection is its effect
        if not self._ssh.alive and self._qemu.wait_ended(0.5):
            return self._qemu.exit_error()
        return super()._host_error(error)

    def close(self) -> None:
        """End QEMU and all processes in it. Idempotent."""
        self._warn_if_tainted()
        with suppress(AttributeError):  # close() during __init__, before the session
            self._ssh.close()
        self._closed = True
        self._qemu.close()

    def _warn_if_tainted(self) -> None:
        """Report that guests may have failed for a fault of QEMU's."""
        with suppress(AttributeError):  # close() during __init__, before QEMU
            buffer = None if self._closed else self._qemu.code_buffer()
            if buffer is not None and buffer[1] > 0:
                self._progress(
                    f"the emulated host's QEMU emptied its code buffer {buffer[1]} times. This can "
                    "break guests: start fewer guests per session"
                )
