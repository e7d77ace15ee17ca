"""A host in software: QEMU without KVM boots a Debian kernel whose own KVM is real."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import HostError, SSHError
from harness.hosts.qemu import Qemu
from harness.hosts.remote import RemoteHost
from harness.hosts.ssh import tcp
from harness.ssh.errors import SSHRefused
from harness.ssh.session import SSHSession

if TYPE_CHECKING:
    from images.image import HostImage

LARGE = 1 << 20  # bytes; SSH takes 0.4 s and 17 MB/s, plugging in a disk 0.12 s at any size
TARGETS = 256  # of a virtio-scsi bus; then further units of each
WORN = 0.65  # of QEMU's code buffer
SPARE = 1024  # MiB of the host's memory that snapshots leave for guests
# MiB: of memory, and of what may lie in it
_ROOM = """
awk '/^MemAvailable/ { printf "%d ", $2 / 1024 }' /proc/meminfo
df --output=avail -BM /dev/shm | tail -n 1 | tr -d M
"""
READY = "harness: sshd"  # the line of the host's init when its SSH server listens


class EmulatedHost(RemoteHost):
    """See Host. One serves a whole session; close() ends it, and so does our own end."""

    emulated = True

    def __init__(
        self,
        image: HostImage,
        *,
        why: str = "asked for",
        progress: Callable[[str], None] = lambda _text: None,
        cpus: int = 2,
        memory: int = 4096,
        boot_timeout: float = 120.0,
    ) -> None:
        """Boot it until SSH answers. memory: MiB. Raises HostError with the console's end."""
        start = time.monotonic()
        self._disks = 0
        self._progress = progress
        self._plugging = threading.Lock()
        self._qemu = Qemu(image.kernel, image.initramfs, image.disk, cpus=cpus, memory=memory)
        try:
            session = self._login(image, start + boot_timeout, boot_timeout)
        except BaseException:  # also Ctrl-C: nothing may stay
            self._qemu.close()
            raise
        super().__init__("emulated", why, session)
        progress(f"emulated host ready in {time.monotonic() - start:.1f} s")

    def _login(self, image: HostImage, end: float, boot_timeout: float) -> SSHSession:
        """Wait for the line of its SSH server, then log in; a refusal may be a moment too early."""
        qemu = self._qemu
        listens = qemu.wait_for(READY, end - time.monotonic())
        while listens:
            try:
                return SSHSession.connect(
                    lambda remaining: tcp("127.0.0.1", qemu.ssh_port, remaining),
                    user="root",
                    client_key=image.client_key,
                    host_key=image.host_key,
                    timeout=max(end - time.monotonic(), 1.0),
                    who="the emulated host",
                )
            except SSHRefused:
                if qemu.ended:
                    raise qemu.end_error() from None
                if time.monotonic() > end:
                    break
                time.sleep(0.05)
            except SSHError as error:
                raise HostError(
                    error.cause, hint=error.hint, stage="host", console=qemu.last_lines()
                ) from error
        raise HostError(
            f"the emulated host was not ready in {boot_timeout:g} s",
            hint="see its console's last lines; a busy machine may need longer",
            stage="host",
            console=qemu.last_lines(),
        )

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._qemu.pid

    def console(self) -> str:
        """All that the host's console showed so far."""
        return self._qemu.console()

    @property
    def needs_replacement(self) -> bool:
        """True when its next guests may not be sound: see CODE_BUFFER in harness/hosts/qemu.py."""
        buffer = self._qemu.code_buffer()
        return buffer is None or buffer[0] > WORN or buffer[1] > 0

    @property
    def tainted(self) -> bool:
        """True when its guests so far may have failed for a fault of QEMU's (CODE_BUFFER, too)."""
        buffer = self._qemu.code_buffer()
        return buffer is None or buffer[1] > 0

    def scratch(self, mapped: int = 0) -> str:
        """See Host. What is mapped lies in /dev/shm, whose pages are huge here (set_up_root() in
        images/guest/boot.c): it is gone with the host."""
        if mapped:
            available, room = map(int, self.run(["sh", "-c", _ROOM]).stdout.split())
            if min(available - SPARE, room) > mapped:
                return "/dev/shm"  # noqa: S108 - of a host that is ours alone
        return super().scratch()

    def _bring(self, path: Path, size: int) -> str:
        """Small files by SSH, large ones as a read-only disk: nothing is copied."""
        if size < LARGE:
            return super()._bring(path, size)
        return self._plug(path)

    def _plug(self, path: Path) -> str:
        with self._plugging:
            number, self._disks = self._disks, self._disks + 1
        target, unit = number % TARGETS, number // TARGETS
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
                f"{path} cannot be given to the emulated host: {error.cause}", stage="host"
            ) from error
        # Its place on the bus is ours to choose, so there is nothing to search for. A process has
        # it open from now on: the last one to close a block device has the kernel drop its cache,
        # and each guest of a session would read its kernel from the disk.
        script = (
            f"for i in $(seq 200); do set -- /sys/bus/scsi/devices/*:0:{target}:{unit}/block/*; "
            'disk=/dev/${1##*/}; [ -b "$disk" ] || { sleep 0.05; continue; }; '
            'sleep infinity <"$disk" >/dev/null 2>&1 & echo "$disk"; exit; done; exit 1'
        )
        found = self.run(["sh", "-c", script], check=False)
        if found.status != 0:
            raise HostError(
                f"the emulated host does not see the disk for {path}",
                hint="its kernel needs the modules virtio_scsi and sd_mod",
                stage="host",
                console=self._qemu.last_lines(),
            )
        return found.stdout.strip()

    def _host_error(self, error: SSHError) -> HostError:
        # QEMU's end is the cause, the broken SSH connection only shows it
        if not self._ssh.alive and self._qemu.wait_ended(0.5):
            return self._qemu.end_error()
        return super()._host_error(error)

    def close(self) -> None:
        """End QEMU with all that runs in it. Idempotent."""
        self._warn()
        with suppress(AttributeError):  # closed before the session was there
            self._ssh.close()
        self._closed = True
        self._qemu.close()

    def _warn(self) -> None:
        """Say so when guests may have failed for no fault of theirs."""
        with suppress(AttributeError):  # closed before QEMU was there
            buffer = None if self._closed else self._qemu.code_buffer()
            if buffer is not None and buffer[1] > 0:
                self._progress(
                    f"the emulated host's QEMU emptied its code buffer {buffer[1]} times: guests "
                    "of it may have failed for that alone (README, Limits); start fewer a session"
                )
