"""QEMU with software emulation as a child process. It leaves no files and ends with us."""

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

CONSOLE_LINES = 20  # in an error
# With -no-reboot, panic=-1 ends QEMU at a panic. tsc=reliable and no_timer_check skip calibrations
# that fail under emulation. maxcpus=1: the init starts the other CPUs; prepare_host() and
# reserve_first_cpu() in images/guest/host.c give the reason. noreplace-smp: the kernel does not
# patch itself for one CPU and back. norandmaps: see CODE_BUFFER.
CMDLINE = (
    "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable no_timer_check "
    "maxcpus=1 noreplace-smp norandmaps psi=1"
)
BINARY = "qemu-system-x86_64"
# With ERMS, kernels clear and copy pages byte by byte. Under emulation that is slow, most of all
# for pages that held code: a guest's boot took twice the time. Without it they use 8 bytes at a
# time.
CPU = "max,+svm,-erms,-fsrm"
# TCG's maximum, in MiB. When its buffer of translated code is full, TCG stops all CPUs and empties
# it. It stops them at times for other reasons as well. If a CPU stops inside a KVM guest, it
# delivers the last injected interrupt a second time, with interrupts off: helper_vmrun() of QEMU
# 7.2 leaves exception_index set until the guest's next exit. That breaks the guest or the whole
# host. A guest's boot fills about 55 MiB. A program at new addresses is translated again, so the
# host and its guests run with norandmaps. Short interrupts also help: see pv_eoi in
# harness/hypervisors/kvm.py.
CODE_BUFFER = 2047
_VERSION_HINT = "use Debian 12's QEMU 7.2 or a later version"


def command(
    kernel: Path, initramfs: Path, disk: Path, *, cpus: int, memory: int, qmp_fd: int
) -> list[str]:
    """QEMU's command line. memory: MiB. The console is written to fd set 1."""
    return [
        *(BINARY, "-machine", "pc", "-cpu", CPU),
        *("-accel", f"tcg,thread=multi,tb-size={CODE_BUFFER}"),
        # The first CPU runs none of our processes; see reserve_first_cpu() in
        # images/guest/host.c.
        *("-smp", str(cpus + 1), "-m", str(memory)),
        *("-nodefaults", "-no-reboot", "-display", "none"),
        *("-chardev", "file,id=console,path=/dev/fdset/1,append=on", "-serial", "chardev:console"),
        *("-chardev", f"socket,id=qmp,fd={qmp_fd},server=off"),
        *("-mon", "chardev=qmp,mode=control"),
        *("-kernel", str(kernel), "-initrd", str(initramfs), "-append", CMDLINE),
        # snapshot=on: the host's writes go to an unlinked temporary file
        "-drive",
        f"file={_escape(disk)},if=none,id=root,format=raw,snapshot=on,cache=unsafe",
        *("-device", "virtio-blk-pci,drive=root,serial=root"),
        *("-device", "virtio-scsi-pci,id=scsi", "-device", "virtio-rng-pci"),
        # port 0: the kernel picks a free port without a race
        *("-netdev", "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:0-:22"),
        *("-device", "virtio-net-pci,netdev=net,romfile="),
    ]


class Qemu:
    """A running QEMU. qmp: its monitor. ssh_port: on 127.0.0.1, forwarded to its SSH server."""

    def __init__(
        self, kernel: Path, initramfs: Path, disk: Path, *, cpus: int = 2, memory: int = 4096
    ) -> None:
        """Start QEMU without waiting for the boot. Raises HostError when it does not start."""
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
        our_end, peer_end = socket.socketpair()
        self.qmp = Monitor(our_end)
        argv = command(kernel, initramfs, disk, cpus=cpus, memory=memory, qmp_fd=peer_end.fileno())
        # the file chardev opens the set in append mode, so its descriptor must have that mode
        console = os.open(f"/proc/self/fd/{self._console}", os.O_WRONLY | os.O_APPEND)
        argv += ["-add-fd", f"fd={console},set=1"]
        self._thread = threading.Thread(
            target=self._run, args=(argv, (peer_end.fileno(), console)), daemon=True
        )
        try:
            self._thread.start()
            self._started.wait()
            peer_end.close()
            os.close(console)
            if self._start_error is not None:
                raise HostError(
                    f"QEMU cannot be started: {self._start_error}",
                    hint="run qemu-system-x86_64 --version to check its installation",
                    stage="host",
                )
            self._handshake()
        except BaseException:
            self.close()
            raise

    def _run(self, argv: Sequence[str], fds: tuple[int, ...]) -> None:
        """Start QEMU and wait for its end, in one thread.

        The kernel sends the parent-death signal when the forking *thread* ends. This thread ends
        only with QEMU or with our process.
        """
        try:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *argv],
                stdin=subprocess.DEVNULL,
                stdout=self._stderr,
                stderr=self._stderr,
                pass_fds=fds,
                start_new_session=True,  # Ctrl-C must not reach QEMU: close() ends it
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
                raise self.exit_error() from error
            raise
        match = re.search(r"HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s", usernet)
        if match is None:
            raise HostError(
                f"QEMU forwards no port for SSH: {usernet!r}", hint=_VERSION_HINT, stage="host"
            )
        self.ssh_port = int(match[1])

    @property
    def pid(self) -> int:
        """QEMU's process id, 0 before its start."""
        return self._process.pid if self._process else 0

    @property
    def ended(self) -> bool:
        """True once QEMU has ended, for any reason."""
        return self._ended.is_set()

    def wait_ended(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for QEMU's end. Returns whether it has ended."""
        return self._ended.wait(timeout)

    def code_buffer(self) -> tuple[float, int] | None:
        """The fill of the code buffer (0 to 1), and how often QEMU emptied it.

        None when QEMU does not answer.
        """
        try:
            text = self.qmp.execute("human-monitor-command", command_line="info jit")
        except HostError:
            return None
        size = re.search(r"gen code size\s+(\d+)/(\d+)", text)
        flushes = re.search(r"TB flush count\s+(\d+)", text)
        if size is None or flushes is None:
            raise HostError(
                f"QEMU does not report its code buffer: {text!r}", hint=_VERSION_HINT, stage="host"
            )
        return int(size[1]) / int(size[2]), int(flushes[1])

    def console(self) -> str:
        """The text of the console so far."""
        return _content(self._console)

    def exit_error(self) -> HostError:
        """The error for QEMU's end, with its status and its messages."""
        messages = _content(self._stderr).strip()
        status = self._process.returncode if self._process else None
        return HostError(
            f"QEMU ended with status {status}" + (f": {messages[-1000:]}" if messages else ""),
            hint="read the console's last lines, and check that enough memory is free (free -m)",
            stage="host",
            console=self.console_tail(),
        )

    def console_tail(self) -> list[str]:
        """The console's last lines, without terminal control sequences."""
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1bc|\r", "", self.console())
        return [line for line in text.split("\n") if line.strip()][-CONSOLE_LINES:]

    def wait_for(self, text: str, timeout: float) -> bool:
        """Wait until the console shows `text`. Returns False after `timeout` seconds.

        Raises HostError when QEMU ends.
        """
        end = time.monotonic() + timeout
        while text not in self.console():
            if self._ended.wait(0.02):
                raise self.exit_error()
            if time.monotonic() >= end:
                return False
        return True

    def close(self) -> None:
        """End QEMU by its monitor, or by SIGKILL. Idempotent."""
        if self._thread.ident is not None:
            self._started.wait(5.0)  # KeyboardInterrupt may come while the thread starts QEMU
        if self._process is not None:
            if not self.ended:
                with contextlib.suppress(HostError):
                    self.qmp.execute("quit", timeout=2.0)
                if not self._ended.wait(2.0):
                    self._process.kill()
            self._ended.wait(10.0)
            self._thread.join(1.0)
        self.qmp.close()
        for name in ("_console", "_stderr"):
            fd: int = getattr(self, name)
            if fd >= 0:
                os.close(fd)
                setattr(self, name, -1)


def _content(fd: int) -> str:
    """The content of a memory file, "" after it is closed."""
    if fd < 0:
        return ""
    return os.pread(fd, os.fstat(fd).st_size, 0).decode(errors="replace")


def _escape(path: Path) -> str:
    """Escape a path for an option of QEMU's, which doubles commas."""
    return str(path).replace(",", ",,")
