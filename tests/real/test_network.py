"""Guests in their network: each other, the host's bridge, SSH over it, passt, and what stays."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.errors import ProvisionError
from harness.guest.factory import GuestFactory
from harness.guest.guest import Guest
from harness.hosts.base import Host
from harness.hypervisors.kvm import KvmHypervisor
from harness.hypervisors.qemu import QemuHypervisor
from images.image import GuestImage
from tests.real.conftest import factory, kvm_pids
from tests.vmm.guests import Runner
from tests.vmm.payload import FOR_EVER, kernel
from tests.vmm.test_payload_disk import source
from tests.waiting import wait_until

BRIDGE = "10.1.0.1"
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def networked(kvm: KvmHypervisor, image: GuestImage) -> Iterator[Guest]:
    """A guest without vsock: SSH is in its network as well."""
    guest = factory(kvm, image, lambda made: None)("networked", ssh="network")
    yield guest
    guest.stop()


def ping(guest: Guest, address: str | None, *options: str) -> str:
    argv = ["ping", "-c", "3", "-i", "0.2", "-w", "10", *options, str(address)]
    return guest.ssh.run(argv).stdout


def test_guests_reach_each_other_and_the_bridge(
    standing: Guest, networked: Guest, kvm: KvmHypervisor, emulated_host: Host
) -> None:
    assert standing.address != networked.address
    for one, other in ((standing, networked.address), (networked, standing.address)):
        assert " 0% packet loss" in ping(one, other)
        assert " 0% packet loss" in ping(one, BRIDGE)
    back = ["ping", "-c", "1", "-w", "10", str(standing.address)]
    assert " 0% packet loss" in emulated_host.run(kvm.in_network(back)).stdout


def test_a_guest_is_told_its_address_and_mac(standing: Guest) -> None:
    facts = standing.facts
    (link,) = json.loads(standing.ssh.run(["ip", "-json", "addr", "show", "eth0"]).stdout)
    assert link["address"] == facts["mac"]
    assert link["addr_info"][0]["local"] == standing.address == facts["address"]
    assert (facts["network"], facts["ssh"]) == ("bridge", "vsock")
    assert "vhost-net (in kernel)" in facts["devices"]


def test_there_is_no_way_out(standing: Guest) -> None:
    host = "10.0.2.15"  # the emulated host's own address
    lost = standing.ssh.run(["ping", "-c", "1", "-w", "2", host], check=False)
    assert lost.status != 0
    assert " 0% packet loss" not in lost.stdout


def test_packets_cause_no_exit(
    standing: Guest, networked: Guest, kvm: KvmHypervisor, emulated_host: Host
) -> None:
    """Neither small ones nor a stream, in either direction: the kernel carries them all."""
    server = standing.ssh.popen(["iperf3", "--server", "--one-off", "--forceflush"])
    while b"Server listening" not in server.readline():
        pass
    client = ["iperf3", "--client", str(standing.address), "--time", "2", "--json", "--bidir"]
    before = standing.statistics()
    told = emulated_host.run(kvm.in_network(client)).stdout
    ping(networked, standing.address, "-f")
    after = standing.statistics()
    ends = json.loads(told)["end"]
    for way in ("sum_received", "sum_received_bidir_reverse"):
        assert ends[way]["bytes"] > 1 << 16
    assert after["exits"] > before["exits"]
    assert after["user_exits"] == before["user_exits"]


def test_ssh_without_vsock(networked: Guest, tmp_path: Path) -> None:
    assert (networked.facts["cid"], networked.facts["ssh"]) == (0, "network")
    assert not [device for device in networked.facts["devices"] if "vsock" in device]
    (tmp_path / "data").write_bytes(data := os.urandom(MEGABYTE))
    networked.ssh.put(tmp_path / "data", "/tmp/data")
    assert networked.ssh.get("/tmp/data") == data
    networked.ssh.disconnect()
    assert networked.ssh.run(["echo", "again"]).stdout == "again\n"


def test_a_guest_of_qemu_has_the_same(emulated_host: Host, image: GuestImage) -> None:
    qemu = QemuHypervisor(emulated_host, lambda text: None)
    try:
        guest = factory(qemu, image, lambda made: None)("peer", ssh="network")
        assert guest.facts["cid"] == 0
        assert " 0% packet loss" in ping(guest, BRIDGE)
        (link,) = json.loads(guest.ssh.run(["ip", "-json", "link", "show", "eth0"]).stdout)
        assert link["address"] == guest.facts["mac"]
    finally:
        qemu.close()


def test_an_address_without_a_device_is_a_clear_failure(guests: GuestFactory) -> None:
    guest = guests.launch(network="none", cmdline="harness.ip=10.1.0.9/16")
    assert guest.address is None
    with pytest.raises(ProvisionError, match="the guest's init failed: no network interface eth0"):
        guest.wait_ready()


# malformed rings that the kernel meets

SECOND_QUEUE = """
    .set QUEUE1, 0x210000 ; .set AVAILABLE1, 0x211000 ; .set USED1, 0x212000
    movw $1, BAR + 22 ; movw $8, BAR + 24
    movl $QUEUE1, BAR + 32 ; movl $AVAILABLE1, BAR + 40 ; movl $USED1, BAR + 48
    movw $1, BAR + 28
"""
SEND = """
    movl $0x100000, QUEUE1 ; movl $64, QUEUE1 + 8
    movw $1, AVAILABLE1 + 2
    {change}
    mov $(NOTIFY + 2), %dx ; mov $1, %eax ; out %ax, %dx
"""


@pytest.mark.parametrize("name", ["vhost-net", "vhost-vsock"])
@pytest.mark.parametrize(
    "change",
    [
        "movl $0xfffff000, QUEUE1",
        "movw $90, AVAILABLE1 + 2",  # so far that it still is when the first was taken
        "movw $8, AVAILABLE1 + 4",
        "movw $1, QUEUE1 + 12 ; movw $0, QUEUE1 + 14",
    ],
    ids=["wild address", "index ahead", "no such descriptor", "loop"],
)
def test_a_ring_that_the_kernel_refuses_ends_its_guest(
    kvm: KvmHypervisor,
    emulated_host: Host,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    *,
    name: str,
    change: str,
) -> None:
    if name == "vhost-net" and "AVAILABLE1 + 2" in change:
        # on fast machines about every second time; the other rings end theirs every time
        why = "vhost-net does not always tell of an index ahead, and why is not known yet"
        request.applymarker(pytest.mark.xfail(reason=why, strict=False))
    kvm.in_network([])  # there must be one
    bridged = [{"mac": "02:00:00:00:00:01", "bridge": "guests"}]
    devices = {"networks": bridged} if name == "vhost-net" else {"vsock": True}
    start = "movb $15, BAR + 20"
    text = source(SEND.format(change=change) + FOR_EVER, pvh=True).replace(
        start, SECOND_QUEUE + start
    )
    placed = emulated_host.place(Path(kernel(text, tmp_path)))
    runner = Runner(kvm.agent, tmp_path)
    plain = {"vsock": False, "rng": False, "balloon": False}
    arguments = {"kernel": placed, "memory": 16, **plain, **devices}
    guest = runner.start("create", f"ring-{tmp_path.name}", **arguments)
    end = guest.end()
    assert (end.reason, end.detail) == (
        "guest-fault",
        f"{name}: the kernel refused the guest's ring",
    )
    runner.close()


# passt

SERVER = """
import socket
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
client, _ = server.accept()
client.sendall(client.recv(100).upper())
"""


def pids_of(host: Host, program: str) -> set[str]:
    return set(host.run(["pgrep", "-x", program], check=False).stdout.split())


def test_passt_is_a_way_to_the_host(guests: GuestFactory, emulated_host: Host) -> None:
    guest = guests("passt", network="passt")
    assert guest.address is None, "nobody reaches it"
    assert "virtio-net by passt (in process)" in guest.facts["devices"]
    server = emulated_host.spawn(["python3", "-c", SERVER])
    port = int(server.readline())
    ask = f"exec 3<>/dev/tcp/10.2.0.1/{port}; echo hello >&3; cat <&3"
    assert guest.ssh.run(["bash", "-c", ask]).stdout == "HELLO\n"
    (passt,) = pids_of(emulated_host, "passt.avx2") | pids_of(emulated_host, "passt")
    emulated_host.run(["kill", "-s", "KILL", str(guest.facts["pid"])])
    assert guest.ended.wait(5.0)
    guest.end_expected = True
    there = ["test", "-e", f"/proc/{passt}"]
    assert wait_until(lambda: emulated_host.run(there, check=False).status)


# what stays

LOOK = """
import json, os, socket, sys
wanted, found = f"net:[{sys.argv[1]}]", []
for pid in filter(str.isdigit, os.listdir("/proc")):
    for folder in (f"/proc/{pid}/ns", f"/proc/{pid}/fd"):
        try:
            links = [os.readlink(f"{folder}/{name}") for name in os.listdir(folder)]
        except OSError:
            continue
        found += [folder] * (wanted in links)
print(json.dumps([found, sorted(name for _, name in socket.if_nameindex())]))
"""


def look(host: Host, identity: str) -> tuple[list[str], list[str]]:
    """Who holds a network namespace; the interfaces of the host's own."""
    done = host.run(["python3", "-I", "-S", "-c", LOOK, identity])
    holders, interfaces = json.loads(done.stdout)
    return holders, interfaces


def close(own: KvmHypervisor) -> None:
    own.close()


def kill(own: KvmHypervisor) -> None:
    own.host.run(["kill", "-s", "KILL", str(own.agent.pid)])
    own.close()


@pytest.mark.parametrize("way", [close, kill])
def test_nothing_of_it_stays(
    emulated_host: Host, image: GuestImage, way: Callable[[KvmHypervisor], None]
) -> None:
    own = KvmHypervisor(emulated_host, lambda text: None)
    guest = factory(own, image, lambda made: None).launch()
    where = own.in_network(["readlink", "/proc/self/ns/net"])
    identity = emulated_host.run(where).stdout.strip()[len("net:[") : -1]
    links = emulated_host.run(own.in_network(["ip", "-json", "link"])).stdout
    assert [link["ifname"] for link in json.loads(links)] == ["lo", "guests", "tap0"]
    holders, before = look(emulated_host, identity)
    assert f"/proc/{guest.facts['pid']}/ns" in holders
    assert before == ["eth0", "lo"]
    way(own)
    guest.end_expected = True
    assert guest.facts["pid"] not in kvm_pids(emulated_host)
    for _ in range(20):
        holders, after = look(emulated_host, identity)
        if not holders:
            break
        time.sleep(0.1)
    assert (holders, after) == ([], before)
