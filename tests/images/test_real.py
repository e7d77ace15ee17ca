"""Real images: built twice, booted, and used over SSH."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest

from harness.hosts.qemu import CPU
from images import store
from images.image import Image


@pytest.mark.slow
def test_equal_inputs_give_equal_digests(tmp_path: Path) -> None:
    """Each build has its own store, and downloads its own packages."""
    manifests = []
    for name in ("one", "a/longer/path"):
        image = store.guest_image(print, tmp_path / name)
        manifest = json.loads((image.folder / "manifest.json").read_text())
        manifests.append(
            [manifest["digest"], *(manifest["files"][f]["sha256"] for f in ("vmlinux", "disk"))]
        )
    assert manifests[0] == manifests[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def boot(image: Image, console: Path, *, memory: int) -> tuple[subprocess.Popen[bytes], int]:
    """Boot the image in QEMU's software emulation; returns the process and the SSH port."""
    port = free_port()
    argv = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", CPU, "-smp", "2"]
    argv += ["-m", str(memory), "-nodefaults", "-no-reboot", "-display", "none"]
    argv += ["-serial", f"file:{console}", "-monitor", "none"]
    argv += ["-kernel", str(image.bzimage), "-initrd", str(image.initramfs)]
    argv += ["-append", "console=ttyS0 quiet panic=-1 harness.ip=10.0.2.15/24,10.0.2.2"]
    argv += ["-drive", f"file={image.disk},if=none,id=root,format=raw,snapshot=on"]
    argv += ["-device", "virtio-blk-pci,drive=root,serial=root"]
    argv += ["-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{port}-:22"]
    argv += ["-device", "virtio-net-pci,netdev=net"]
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL), port


def wait_for(console: Path, text: str) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        text_so_far = console.read_text(errors="replace") if console.exists() else ""
        if text in text_so_far or "failed" in text_so_far:
            return text_so_far
        time.sleep(0.05)
    return text_so_far


def login(image: Image, port: int) -> paramiko.SSHClient:
    client = paramiko.SSHClient()
    name, key = image.host_key.split()
    known = paramiko.Ed25519Key(data=base64.b64decode(key))
    client.get_host_keys().add(f"[127.0.0.1]:{port}", name, known)
    client.connect(
        "127.0.0.1",
        port,
        "root",
        key_filename=str(image.client_key),
        look_for_keys=False,
        allow_agent=False,
        timeout=60,
    )
    return client


class Machine:
    """A booted image and its SSH session."""

    def __init__(self, process: subprocess.Popen[bytes], client: paramiko.SSHClient) -> None:
        self.process = process
        self._client = client

    def run(self, command: str) -> str:
        _, out, err = self._client.exec_command(command, timeout=60)
        output = out.read().decode() + err.read().decode()
        status = out.channel.recv_exit_status()
        assert status == 0, f"{command}: {status}\n{output}"
        return output


def machine(image: Image, folder: Path, memory: int) -> Iterator[Machine]:
    console = folder / "console"
    process, port = boot(image, console, memory=memory)
    try:
        shown = wait_for(console, "harness: sshd ")
        marks = [line for line in shown.splitlines() if "harness: " in line]
        assert [line.split("harness: ")[1].split()[0] for line in marks] == ["init", "sshd"], shown
        yield Machine(process, login(image, port))
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def guest(
    boots_emulated_machine: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    yield from machine(store.guest_image(), tmp_path_factory.mktemp("guest"), 512)


@pytest.fixture(scope="module")
def host(
    boots_emulated_machine: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    yield from machine(store.host_image(), tmp_path_factory.mktemp("host"), 1024)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("uname -r", "cloud-amd64"),
        ("id -un", "root"),
        ("fio --version", "fio-"),
        ("iperf3 --version", "iperf 3"),
        ("stress-ng --version", "stress-ng"),
        ("readlink -f /dev/disk/by-serial/root", "/dev/vd"),
        ("grep ' / ' /proc/mounts", "ext4 ro"),
        ("ip -br addr show eth0", "10.0.2.15/24"),
        ("touch /root/x /tmp/x /var/tmp/x && echo writable", "writable"),
        ("hv-exits pio_kernel --ops 1000 --batches 2", '"case": "pio_kernel"'),
        ("ps -o comm= 1", "init"),
    ],
)
def test_guest_has_the_programs_of_the_suites(guest: Machine, command: str, expected: str) -> None:
    assert expected in guest.run(command)


def test_guest_powers_off(guest: Machine) -> None:
    """This test must be the last one of this module that uses the guest."""
    guest.run("(sleep 0.2; poweroff) > /dev/null 2>&1 < /dev/null &")
    assert guest.process.wait(30) == 0


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("ls /dev/vhost-net /dev/vhost-vsock /dev/net/tun", "vhost-vsock"),
        ("cat /sys/fs/cgroup/cgroup.subtree_control", "cpuset cpu io memory pids"),
        ("qemu-system-x86_64 --version", "QEMU emulator"),
        ("ip link add br0 type bridge && ip link del br0 && echo bridges", "bridges"),
        ("fio --version && socat -V | head -1", "socat"),
        # Debian compiles Python when it configures the package; the build does so here
        (
            "python3 -v -c 'import json, ctypes, selectors' 2>&1 | grep -c 'code object from.*pyc'",
            "",
        ),
        ("! python3 -v -c 'import json, ctypes, asyncio' 2>&1 | grep 'code object from.*py$'", ""),
        ("stat -c %a /tmp", "1777"),
    ],
)
def test_host_has_the_programs_of_the_harness(host: Machine, command: str, expected: str) -> None:
    assert expected in host.run(command)
