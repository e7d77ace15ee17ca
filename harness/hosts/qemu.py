"""QEMU in software as a child process: nothing of it is on disk, nothing of it outlives us."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from harness.errors import HostError
from harness.hosts.qmp import Monitor

CONSOLE_LINES = 20  # of an error
# -no-reboot with panic=-1: a panic ends QEMU at once. tsc=reliable and no_timer_check leave out
# what cannot be calibrated in software. maxcpus=1: its init starts the others (settle_host() and
# keep_first_cpu_free() in images/guest/boot.c say why); noreplace-smp spares the kernel to patch
# itself for one CPU and back. norandmaps: see CODE_BUFFER.
CMDLINE = (
    "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable no_timer_check "
    "maxcpus=1 noreplace-smp norandmaps psi=1"
)
BINARY = "qemu-system-x86_64"
# Without ERMS kernels clear and copy pages by 8 bytes, with it byte by byte, which is slow in
# software, and slower for pages in which there was code: a guest's boot took twice the time.
CPU = "max,+svm,-erms,-fsrm"
# The most that tcg takes, in MiB. When its buffer of translated code is full, it stops all CPUs to
# empty it (and stops them for other reasons now and then); a CPU of ours that has just been stopped
# in a guest of KVM delivers the last injected interrupt once more, with interrupts off
# (helper_vmrun() of QEMU 7.2 leaves exception_index set until the guest's next exit): that guest,
# or the whole host, is then broken. A guest's boot takes about 55 MiB. A program at other addresses
# than before takes as much again, hence norandmaps here and in guests. The guests' interrupts are
# short, too: see pv_eoi in harness/hypervisors/kvm.py.
CODE_BUFFER = 2047


def command(
    kernel: Path, initramfs: Path, disk: Path, *, cpus: int, memory: int, qmp_fd: int
) -> list[str]:
    """QEMU's command line; memory in MiB. The console goes to fd set 1."""
    return [
        *(BINARY, "-machine", "pc", "-cpu", CPU),
        *("-accel", f"tcg,thread=multi,tb-size={CODE_BUFFER}"),
        # one more, the first, that nothing of ours runs on: keep_first_cpu_free() says why
        *("-smp", str(cpus + 1), "-m", str(memory)),
        *("-nodefaults", "-no-reboot", "-display", "none"),
        *("-chardev", "file,id=console,path=/dev/fdset/1,append=on", "-serial", "chardev:console"),
        *("-chardev", f"socket,id=qmp,fd={qmp_fd},server=off"),
        *("-mon", "chardev=qmp,mode=control"),
        *("-kernel", str(kernel), "-initrd", str(initramfs), "-append", CMDLINE),
        # snapshot: what the host writes goes to an unlinked temporary file
        "-drive",
        f"file={_escape(disk)},if=none,id=root,format=raw,snapshot=on,cache=unsafe",
        *("-device", "virtio-blk-pci,drive=root,serial=root"),
        *("-device", "virtio-scsi-pci,id=scsi", "-device", "virtio-rng-pci"),
        # port 0: the kernel finds a free one, so nobody can take it meanwhile
        *("-netdev", "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:0-:22"),
        *("-device", "virtio-net-pci,netdev=net,romfile="),
    ]


class Qemu:
    """A running QEMU. Attributes: qmp; pid; ssh_port on 127.0.0.1."""

    def __init__(
        self, kernel: Path, initramfs: Path, disk: Path, *, cpus: int = 2, memory: int = 4096
    ) -> None:
        """Start it; it boots meanwhile. Raises HostError when it is missing or ends at once."""
        for program, package in ((BINARY, "qemu-system-x86"), ("setpriv", "util-linux")):
            if shutil.which(program) is None:
                raise HostError(
                    f"{program} is not installed",
                    hint=f"apt install {package}",
                    stage="host",
                )
        self._console = os.memfd_create("console")
        self._stderr = os.memfd_create("stderr")
        self._ended = threading.Event()
        self._started = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._start_error: OSError | None = None
        ours, theirs = socket.socketpair()
        self.qmp = Monitor(ours)
        argv = command(kernel, initramfs, disk, cpus=cpus, memory=memory, qmp_fd=theirs.fileno())
        # append mode is wanted by the file chardev, so the set must hold such a descriptor
        console = os.open(f"/proc/self/fd/{self._console}", os.O_WRONLY | os.O_APPEND)
        argv += ["-add-fd", f"fd={console},set=1"]
        self._keeper = threading.Thread(
            target=self._keep, args=(argv, (theirs.fileno(), console)), daemon=True
        )
        try:
            self._keeper.start()
            self._started.wait()
            theirs.close()
            os.close(console)
            if self._start_error is not None:
                raise HostError(f"QEMU cannot be started: {self._start_error}", stage="host")
            self._handshake()
        except BaseException:
            self.close()
            raise

    def _keep(self, argv: Sequence[str], fds: tuple[int, ...]) -> None:
        """Start QEMU and wait for its end, in a thread that lives as long as QEMU.

        The parent-death signal comes at the end of the *thread* that forked; so it is this one,
        which ends only with QEMU or with our process, whatever kills it.
        """
        try:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *argv],
                stdin=subprocess.DEVNULL,
                stdout=self._stderr,
                stderr=self._stderr,
                pass_fds=fds,
                start_new_session=True,  # Ctrl-C is ours; we end QEMU in order
            )
        except OSError as error:
            self._start_error = error
        finally:
            self._started.set()
        if self._process is not None:
            self._process.wait()
        self._ended.set()

    def _handshake(self) -> None:
        try:
            usernet = self.qmp.execute("human-monitor-command", command_line="info usernet")
        except HostError as error:
            if self._ended.wait(1.0):
                raise self.end_error() from error
            raise
        found = re.search(r"HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s", usernet)
        if found is None:
            raise HostError(f"QEMU forwards no port for SSH: {usernet!r}", stage="host")
        self.ssh_port = int(found[1])

    @property
    def pid(self) -> int:
        """Its process id, 0 before it started."""
        return self._process.pid if self._process else 0

    @property
    def ended(self) -> bool:
        """True once it has ended, for whatever reason."""
        return self._ended.is_set()

    def wait_ended(self, timeout: float) -> bool:
        """True when it has ended, or ends within `timeout` seconds."""
        return self._ended.wait(timeout)

    def code_buffer(self) -> tuple[float, int] | None:
        """How full the buffer of translated code is (0 to 1), and how often it was emptied.

        None when QEMU has ended, is about to, or hangs.
        """
        try:
            text = self.qmp.execute("human-monitor-command", command_line="info jit")
        except HostError:
            return None
        size = re.search(r"gen code size\s+(\d+)/(\d+)", text)
        flushes = re.search(r"TB flush count\s+(\d+)", text)
        if size is None or flushes is None:
            raise HostError(f"QEMU tells nothing of its code buffer: {text!r}", stage="host")
        return int(size[1]) / int(size[2]), int(flushes[1])

    def console(self) -> str:
        """All that came from the console so far."""
        return _content(self._console)

    def end_error(self) -> HostError:
        """Why it ended, as far as it said."""
        said = _content(self._stderr).strip()
        status = self._process.returncode if self._process else None
        return HostError(
            f"QEMU ended with status {status}" + (f": {said[-1000:]}" if said else ""),
            hint="see the console's last lines; memory may be short (free -m)",
            stage="host",
            console=self.last_lines(),
        )

    def last_lines(self) -> list[str]:
        """The console's last lines, without terminal control sequences."""
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1bc|\r", "", self.console())
        return [line for line in text.split("\n") if line.strip()][-CONSOLE_LINES:]

    def wait_for(self, text: str, timeout: float) -> bool:
        """True when the console shows `text`, False when late. Raises HostError at QEMU's end."""
        end = time.monotonic() + timeout
        while text not in self.console():
            if self._ended.wait(0.02):
                raise self.end_error()
            if time.monotonic() >= end:
                return False
        return True

    def close(self) -> None:
        """End it: by the monitor, or else by SIGKILL. Idempotent."""
        if self._keeper.ident is not None:
            self._started.wait(5.0)  # Ctrl-C may have come while the thread was starting it
        if self._process is not None:
            if not self.ended:
                with contextlib.suppress(HostError):
                    self.qmp.execute("quit", timeout=2.0)
                if not self._ended.wait(2.0):
                    self._process.kill()
            self._ended.wait(10.0)
            self._keeper.join(1.0)
        self.qmp.close()
        for name in ("_console", "_stderr"):
            fd: int = getattr(self, name)
            if fd >= 0:
                os.close(fd)
                setattr(self, name, -1)


def _content(fd: int) -> str:
    """A memory file's content; "" once it is closed."""
    if fd < 0:
        return ""
    return os.pread(fd, os.fstat(fd).st_size, 0).decode(errors="replace")


def _escape(path: Path) -> str:
    """A comma in QEMU's option values is written twice."""
    return str(path).replace(",", ",,")
