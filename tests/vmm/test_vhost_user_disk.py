"""Disks of a real qemu-storage-daemon, used by payloads."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.agent import storage_daemon
from harness.agent.storage_daemon import PROGRAM, StorageDaemon, start_daemon
from harness.errors import ProvisionError
from harness.kvm.errors import ConfigError
from harness.vmm.config import Config, DiskConfig
from harness.vmm.devices.virtio import block
from harness.vmm.devices.virtio.vhost_user_block import VhostUserBlock
from tests.vmm.guests import Guest, Runner
from tests.vmm.payload import FOR_EVER, HELLO, POWER_OFF
from tests.vmm.test_payload_disk import SECTOR_ONE, source
from tests.waiting import gone, wait_until

pytestmark = pytest.mark.skipif(not shutil.which(PROGRAM), reason=f"no {PROGRAM} (qemu-utils)")
SIZE = 1 << 20
READ = "request {0}\n1: cmpw ${0}, USED + 2 ; jne 1b\ncmpb $0, STATUS ; jne 2f\n"
SAY = f"say DATA {len(SECTOR_ONE)}\n"
WRITE = """
    movl $0x69772065, DATA ; movl $0x0a6e, DATA + 4
    request {0} 1
1:  cmpw ${0}, USED + 2 ; jne 1b
    cmpb $0, STATUS ; jne 2f
"""
HELD = "cli\n2: hlt ; jmp 2b\n"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base,with=odd name"
    path.write_bytes(bytes(512) + SECTOR_ONE.ljust(SIZE - 512, b"\0"))
    return path


def disk(path: Path, **more: Any) -> list[dict[str, Any]]:
    return [{"path": str(path), "serial": "d", "backend": "vhost-user", **more}]


def daemon_of(guest: Guest) -> psutil.Process:
    (child,) = psutil.Process(guest.machine.facts["pid"]).children()
    assert child.name().startswith("qemu-storage-da")
    return child


@pytest.fixture
def idle(run: Runner, base: Path) -> Guest:
    """A guest that has read a sector and sleeps."""
    guest = run(source(READ.format(1) + SAY + HELD), disks=disk(base))
    guest.wait_line("sector one")
    return guest


def test_features_equal_the_in_process_disk(base: Path) -> None:
    for readonly in (True, False):
        config = DiskConfig(str(base), "d", readonly)
        daemon = StorageDaemon([config])
        device = VhostUserBlock(config, daemon, 0)
        own = block.Block(str(base), "d", readonly, False, lambda error: None)
        assert (device.features, device.config) == (own.features, own.config)
        os.close(own._fd)
        daemon.close()


def test_facts_name_the_backend(run: Runner, base: Path) -> None:
    guest = run(HELLO + FOR_EVER, disks=disk(base, backend="auto"))
    assert guest.machine.facts["devices"][0] == "virtio-blk (vhost-user)"
    assert guest.machine.facts["aio"] in ("io_uring", "native", "threads")


def test_device_works_after_a_reset(run: Runner, base: Path) -> None:
    again = (
        "movb $0, BAR + 20 ; movw $0, AVAILABLE + 2 ; movw $0, USED + 2 ; movb $0, DATA\nstart\n"
    )
    body = READ.format(1) + again + READ.format(1) + SAY + HELD
    guest = run(source(body), disks=disk(base))
    guest.wait_line("sector one")
    assert guest.machine.statistics()["block_requests_d"] == 2


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_overlay_takes_the_writes(run: Runner, base: Path, tmp_path: Path, format: str) -> None:
    if format == "qcow2":
        raw, base = base, tmp_path / "base.qcow2"
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, base], check=True)
    before, names = base.read_bytes(), set(tmp_path.iterdir())
    body = READ.format(1) + SAY + WRITE.format(2) + "movl $0, DATA\n" + READ.format(3)
    body += "say DATA 6\n2:\n"
    guest = run(source(body + POWER_OFF), disks=disk(base, format=format, overlay=str(tmp_path)))
    end = guest.end()
    assert (end.reason, guest.lines) == ("power-off", ["sector one", "e win"]), end
    assert base.read_bytes() == before
    assert set(tmp_path.iterdir()) - names == {tmp_path / "guest"}  # the payload's folder


def test_write_without_an_overlay_reaches_the_disk(run: Runner, base: Path) -> None:
    guest = run(source(WRITE.format(1) + "2:\n" + POWER_OFF), disks=disk(base, readonly=False))
    assert guest.end().reason == "power-off"
    assert base.read_bytes()[512:518] == b"e win\n"


def test_write_to_a_read_only_disk_is_an_error(run: Runner, base: Path) -> None:
    refused = WRITE.format(1) + "jmp 3f\n2: say again 6\n3:\n"
    guest = run(source(refused + POWER_OFF), disks=disk(base))
    guest.end()
    assert guest.lines == ["again"]
    assert base.read_bytes()[512:].startswith(SECTOR_ONE)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_end_of_the_daemon_ends_the_guest(idle: Guest, number: signal.Signals) -> None:
    daemon = daemon_of(idle)
    started = time.monotonic()
    daemon.send_signal(number)
    end = idle.end()
    assert end.time_ns / 1e9 - started < 1.0
    assert end.reason == "backend-lost"
    if number == signal.SIGKILL:
        assert "signal 9 (SIGKILL)" in end.detail


def test_daemon_ends_with_the_guest(idle: Guest) -> None:
    daemon = daemon_of(idle)
    assert os.getpgid(daemon.pid) == daemon.pid
    idle.machine.stop()
    assert gone(daemon.pid)


def test_daemon_ends_with_a_killed_guest(idle: Guest) -> None:
    daemon = daemon_of(idle)
    os.kill(idle.machine.facts["pid"], signal.SIGKILL)
    assert gone(daemon.pid)


def test_guests_share_a_read_only_disk(run: Runner, base: Path) -> None:
    guests = [run(source(READ.format(1) + SAY + HELD), name, disks=disk(base)) for name in "ab"]
    for guest in guests:
        guest.wait_line("sector one")
    daemon_of(guests[0]).kill()
    assert guests[0].end().reason == "backend-lost"
    assert not guests[1].ends


def test_one_daemon_serves_all_disks(run: Runner, base: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(bytes(4096))
    guest = run(source(READ.format(1) + SAY + HELD), disks=disk(base) + disk(other, serial="e"))
    guest.wait_line("sector one")
    daemon_of(guest)
    counters = guest.machine.statistics()
    assert (counters["block_requests_d"], counters["block_requests_e"]) == (1, 0)


@pytest.mark.parametrize(
    ("more", "cause", "hint"),
    [
        ({"format": "qcow2"}, "it is no qcow2 image", "true format"),
        ({"format": "vmdk"}, "format cannot be 'vmdk'", "raw or qcow2"),
        ({"backend": "magic"}, "backend cannot be 'magic'", "vhost-user"),
        ({"overlay": "/none"}, "no overlay in /none: No such file", "folder"),
        ({"backend": "process", "overlay": "/tmp"}, "only qemu-storage-daemon", "qemu-utils"),
        ({"backend": "process", "format": "qcow2"}, "only qemu-storage-daemon", "qemu-utils"),
    ],
)
def test_refusal_has_cause_and_hint(
    run: Runner, base: Path, more: dict[str, Any], cause: str, hint: str
) -> None:
    with pytest.raises(ProvisionError) as refused:
        run(FOR_EVER, disks=disk(base, **more))
    assert cause in refused.value.cause
    assert hint in refused.value.hint


def test_refusal_by_the_daemon_has_its_message(run: Runner, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", broken, "1M"], check=True)
    with broken.open("r+b") as file:
        file.seek(20)
        file.write(b"\xff")  # clusters of 2^255 bytes
    with pytest.raises(ProvisionError, match=r"it ended with status 1: .*luster size"):
        run(FOR_EVER, disks=disk(broken, format="qcow2"))


def test_mergeable_memory_uses_in_process_disks(run: Runner, base: Path) -> None:
    guest = run(HELLO + FOR_EVER, disks=disk(base, backend="auto"), mergeable=True)
    assert guest.machine.facts["devices"][0] == "virtio-blk (in process)"
    with pytest.raises(ProvisionError, match="mergeable memory cannot be shared"):
        run(FOR_EVER, "other", disks=disk(base), mergeable=True)


def test_disks_are_in_process_without_the_daemon(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/none")
    config = Config("kernel", disks=[DiskConfig(str(base), "d")])
    assert start_daemon(config) is None
    assert config.disks[0].backend == "process"
    with pytest.raises(ConfigError, match="qemu-storage-daemon is not installed"):
        start_daemon(Config("kernel", disks=[DiskConfig(str(base), "d", backend="vhost-user")]))


@pytest.mark.parametrize("size", [512, 1 << 20, 5 << 40])
def test_empty_overlay_is_a_valid_image(tmp_path: Path, size: int) -> None:
    fd = storage_daemon._create_overlay(size, str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    image = f"/proc/self/fd/{fd}"
    for command in ("check", "info"):
        argv = ["qemu-img", command, "-f", "qcow2", "--output=json", image]
        output = subprocess.run(argv, pass_fds=[fd], capture_output=True, check=True).stdout
    assert json.loads(output)["virtual-size"] == size
    os.close(fd)


def test_other_clients_cannot_connect(base: Path) -> None:
    client, listener = storage_daemon._listening_pair()
    name = client.getpeername()
    with socket.socket(socket.AF_UNIX) as other:
        other.setblocking(False)
        with pytest.raises(OSError, match="refused"):
            other.connect(name)
    with socket.socket(fileno=listener) as server:
        accepted, _ = server.accept()
        accepted.send(b"ours")
        accepted.close()
    assert client.recv(4) == b"ours"
    client.close()


ASK = """
import socket, sys
daemon = socket.socket(fileno=int(sys.argv[1]))
daemon.sendall(bytes([1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]))  # GET_FEATURES
print("features", daemon.recv(20)[:12].hex(), flush=True)
daemon.recv(1)
"""


def children_of_relay(peer: Guest) -> list[psutil.Process]:
    """A peer and the processes that the agent runs for it."""
    relay = psutil.Process(peer.machine.facts["pid"]).parent()
    assert relay is not None
    return list(relay.children())


def test_peer_ends_with_its_daemon(external_vmms: Runner, base: Path) -> None:
    argv = [sys.executable, "-c", ASK, "{disk0}"]
    guest = external_vmms.start("exec", "peer", argv=argv, disks=disk(base))
    guest.wait_line("features 010000000500000008000000")
    (daemon,) = (
        child for child in children_of_relay(guest) if child.name().startswith("qemu-storage-da")
    )
    daemon.kill()
    end = guest.end()
    assert (end.reason, "SIGKILL" in end.detail) == ("backend-lost", True)


def test_daemon_ends_with_its_peer(external_vmms: Runner, base: Path) -> None:
    guest = external_vmms.start("exec", "peer", argv=["sleep", "100"], disks=disk(base))
    children = children_of_relay(guest)
    guest.machine.stop()
    assert guest.end().reason == "stopped"
    assert len(children) == 2
    assert all(gone(child.pid) for child in children)


def test_only_the_end_of_the_daemons_output_is_kept(idle: Guest) -> None:
    """The daemon's standard error is drained, and its end is kept."""
    with Path(f"/proc/{daemon_of(idle).pid}/fd/2").open("wb", buffering=0) as stderr:
        for _ in range(100):
            stderr.write(b"x" * 4000 + b"\n")
    daemon_of(idle).kill()
    assert wait_until(lambda: idle.ends)
    assert "xxx\n" in idle.end().detail
    assert len(idle.end().detail) < 5000
