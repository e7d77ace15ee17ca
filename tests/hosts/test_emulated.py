"""The emulated host, booted in full."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import HostError
from harness.hosts import qemu
from harness.hosts.emulated import DISK_THRESHOLD, EmulatedHost
from images.image import HostImage
from images.store import host_image
from tests.waiting import gone

boots = pytest.mark.usefixtures("boots_emulated_machine")


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_missing_qemu_names_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="qemu-system-x86_64 is not installed") as caught:
        qemu.Qemu(tmp_path / "k", tmp_path / "i", tmp_path / "d")
    assert caught.value.hint == "apt install qemu-system-x86"


class TestShared:
    """Tests that share one host."""

    def test_host_offers_kvm(self, emulated_host: EmulatedHost) -> None:
        facts = emulated_host.facts
        assert emulated_host.emulated
        assert facts.backend == "emulated"
        assert (facts.cpus, facts.cpu_numbers) == (2, (1, 2)), (
            "the first is reserved for the kernel"
        )
        assert facts.mitigations
        devices = ["/dev/kvm", "/dev/vhost-vsock", "/dev/vhost-net", "/dev/net/tun"]
        assert emulated_host.run(["ls", *devices]).status == 0

    def test_kvm_runs_the_probe_guest(self, emulated_host: EmulatedHost) -> None:
        source = Path(qemu.__file__).with_name("kvm_probe.py").read_bytes()
        result = emulated_host.run(["python3", "-I", "-S", "-", "/dev/kvm"], input=source)
        assert result.stdout == "ok\n"

    @pytest.mark.parametrize("size", [100, DISK_THRESHOLD + 700])
    def test_a_regular_file_has_its_true_size(
        self, emulated_host: EmulatedHost, tmp_path: Path, size: int
    ) -> None:
        content = os.urandom(size)
        (tmp_path / "file").write_bytes(content)
        emulated_host.place(tmp_path / "file")
        placed = emulated_host.place(tmp_path / "file", regular=True)
        done = emulated_host.run(["sh", "-c", f"stat -c '%F %s' {placed}; sha256sum {placed}"])
        assert done.stdout.startswith(f"regular file {size}\n{hashlib.sha256(content).hexdigest()}")
        assert emulated_host.place(tmp_path / "file", regular=True) == placed

    def test_a_large_program_can_be_executed(
        self, emulated_host: EmulatedHost, tmp_path: Path
    ) -> None:
        program = tmp_path / "program"
        program.write_text("#!/bin/sh\necho run\nexit\n" + "#" * DISK_THRESHOLD)
        placed = emulated_host.place(program, executable=True)
        assert emulated_host.run([placed]).stdout == "run\n"

    @pytest.mark.parametrize("size", [100, DISK_THRESHOLD + 700])
    def test_placed_file_has_the_same_content(
        self, emulated_host: EmulatedHost, tmp_path: Path, size: int
    ) -> None:
        data = os.urandom(size)
        (tmp_path / "a,file").write_bytes(data)
        remote = emulated_host.place(tmp_path / "a,file")
        assert remote.startswith("/dev/sd") == (size >= DISK_THRESHOLD)
        assert emulated_host.place(tmp_path / "a,file") == remote
        script = f"head -c {size} {remote} | sha256sum"
        digest = emulated_host.run(["sh", "-c", script]).stdout.split()[0]
        assert digest == hashlib.sha256(data).hexdigest()
        if size >= DISK_THRESHOLD:
            blocks = emulated_host.run(["cat", f"/sys/block/{remote[5:]}/size"]).stdout
            assert int(blocks) * 512 == -(-size // 512) * 512
            denied = emulated_host.run(["dd", f"of={remote}", "count=1"], input=b"x", check=False)
            assert denied.status != 0
            assert (tmp_path / "a,file").read_bytes() == data

    def test_process_reads_lines_until_kill(self, emulated_host: EmulatedHost) -> None:
        process = emulated_host.spawn(["cat"])
        process.write(b"line\n")
        assert process.readline() == b"line\n"
        process.kill()
        assert process.readline() == b""

    def test_scratch_supports_direct_io(self, emulated_host: EmulatedHost) -> None:
        target = f"of={emulated_host.scratch()}/file"
        argv = ["dd", "if=/dev/zero", target, "bs=4096", "count=4", "oflag=direct"]
        assert emulated_host.run(argv).status == 0

    def test_connect_vsock_without_a_guest_fails(self, emulated_host: EmulatedHost) -> None:
        with pytest.raises(OSError, match="vsock 77:22") as caught:
            emulated_host.connect_vsock(77, 22, 5.0)
        assert caught.value.errno in {errno.ENODEV, errno.ECONNRESET, errno.ETIMEDOUT}

    def test_host_cannot_reach_the_network(self, emulated_host: EmulatedHost) -> None:
        script = "import socket; s = socket.socket(); s.settimeout(1); s.connect(('10.0.2.2', 9))"
        assert emulated_host.run(["python3", "-c", script], check=False).status == 1


@boots
def test_killed_qemu_is_reported_and_leaves_nothing() -> None:
    before, threads = descriptors(), threading.active_count()
    host = EmulatedHost(host_image())
    process = host.spawn(["cat"])
    os.kill(host.pid, signal.SIGKILL)
    assert process.readline() == b""
    with pytest.raises(HostError, match="QEMU ended with status -9"):
        host.run(["true"])
    assert gone(host.pid)
    host.close()
    host.close()
    assert descriptors() <= before
    assert threading.active_count() <= threads


@boots
def test_sigkill_of_the_parent_ends_qemu() -> None:
    code = (
        "import time\nfrom images.store import host_image\nfrom harness.hosts.qemu import Qemu\n"
        "i = host_image()\nq = Qemu(i.kernel, i.initramfs, i.disk)\n"
        "print(q.pid, flush=True)\ntime.sleep(100)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    with child:
        assert child.stdout is not None
        pid = int(child.stdout.readline().split()[-1])
        assert not is_gone(pid)
        child.kill()
        child.wait()
    assert gone(pid)


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def _broken_kernel(image: HostImage, folder: Path) -> HostImage:
    (folder / "kernel").write_bytes(b"no kernel" * 1000)
    return dataclasses.replace(image, kernel=folder / "kernel")


def _missing_disk(image: HostImage, folder: Path) -> HostImage:
    return dataclasses.replace(image, disk=folder / "none")


def _empty_disk(image: HostImage, folder: Path) -> HostImage:
    (folder / "disk").write_bytes(bytes(1 << 20))
    return dataclasses.replace(image, disk=folder / "disk")


@boots
@pytest.mark.parametrize(
    ("breakage", "error"),
    [
        (_broken_kernel, "not ready|QEMU ended"),
        (_missing_disk, r"QEMU ended with status 1: .*No such file"),
        (_empty_disk, r"(?s)QEMU ended.*harness: failed"),
    ],
)
def test_broken_image_is_an_error(
    tmp_path: Path, breakage: Callable[[HostImage, Path], HostImage], error: str
) -> None:
    image = breakage(host_image(), tmp_path)
    before = descriptors()
    with pytest.raises(HostError) as caught:
        EmulatedHost(image, boot_timeout=15)
    assert caught.match(error)
    assert descriptors() <= before


@boots
def test_late_boot_ends_qemu() -> None:
    threads = threading.active_count()
    with pytest.raises(HostError, match="was not ready in"):
        EmulatedHost(host_image(), boot_timeout=0.3)
    assert threading.active_count() <= threads


@boots
def test_interrupt_during_boot_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pids: list[int] = []

    def interrupted(self: qemu.Qemu, _text: str, _timeout: float) -> bool:
        pids.append(self.pid)
        raise KeyboardInterrupt

    monkeypatch.setattr(qemu.Qemu, "wait_for", interrupted)
    with pytest.raises(KeyboardInterrupt):
        EmulatedHost(host_image())
    assert gone(pids[0])
