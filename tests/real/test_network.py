"""The network of guests: the host's bridge, SSH over the network, passt, and cleanup."""

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
    """A guest without vsock, with SSH over its network."""
    guest = factory(kvm, image, lambda guest: None)("networked", ssh="network")
    yield guest
    guest.stop()


def ping(guest: Guest, address: str | None, *options: str) -> str:
    argv = ["ping", "-c", "3", "-i", "0.2", "-w", "10", *options, str(address)]
    return guest.ssh.run(argv).stdout


def test_guests_reach_each_other_and_the_bridge(
    real_guest: Guest, networked: Guest, kvm: KvmHypervisor, emulated_host: Host
) -> None:
    assert real_guest.address != networked.address
    for one, other in ((real_guest, networked.address), (networked, real_guest.address)):
        assert " 0% packet loss" in ping(one, other)
        assert " 0% packet loss" in ping(one, BRIDGE)
    back = ["ping", "-c", "1", "-w", "10", str(real_guest.address)]
    assert " 0% packet loss" in emulated_host.run(kvm.in_network(back)).stdout


def test_guest_has_the_reported_address_and_mac(real_guest: Guest) -> None:
    facts = real_guest.facts
    (link,) = json.loads(real_guest.ssh.run(["ip", "-json", "addr", "show", "eth0"]).stdout)
    assert link["address"] == facts["mac"]
    assert link["addr_info"][0]["local"] == real_guest.address == facts["address"]
    assert (facts["network"], facts["ssh"]) == ("bridge", "vsock")
    assert "vhost-net (in kernel)" in facts["devices"]


def test_guest_cannot_reach_other_networks(real_guest: Guest) -> None:
    host = "10.0.2.15"  # the emulated host's own address
    lost = real_guest.ssh.run(["ping", "-c", "1", "-w", "2", host], check=False)
    assert lost.status != 0
    assert " 0% packet loss" not in lost.stdout


def test_packets_cause_no_exit(
    real_guest: Guest, networked: Guest, kvm: KvmHypervisor, emulated_host: Host
) -> None:
    """The kernel forwards small packets and streams in both directions."""
    server = real_guest.ssh.popen(["iperf3", "--server", "--one-off", "--forceflush"])
    while b"Server listening" not in server.readline():
        pass
    client = ["iperf3", "--client", str(real_guest.address), "--time", "2", "--json", "--bidir"]
    before = real_guest.statistics()
    output = emulated_host.run(kvm.in_network(client)).stdout
    ping(networked, real_guest.address, "-f")
    after = real_guest.statistics()
    ends = json.loads(output)["end"]
    for direction in ("sum_received", "sum_received_bidir_reverse"):
        assert ends[direction]["bytes"] > 1 << 16
    assert after["exits"] > before["exits"]
    assert after["user_exits"] == before["user_exits"]


def test_ssh_works_without_vsock(networked: Guest, tmp_path: Path) -> None:
    assert (networked.facts["cid"], networked.facts["ssh"]) == (0, "network")
    assert not [device for device in networked.facts["devices"] if "vsock" in device]
    (tmp_path / "data").write_bytes(data := os.urandom(MEGABYTE))
    networked.ssh.put(tmp_path / "data", "/tmp/data")
    assert networked.ssh.get("/tmp/data") == data
    networked.ssh.disconnect()
    assert networked.ssh.run(["echo", "again"]).stdout == "again\n"


def test_qemu_guest_has_the_same_network(emulated_host: Host, image: GuestImage) -> None:
    qemu = QemuHypervisor(emulated_host, lambda text: None)
    try:
        guest = factory(qemu, image, lambda guest: None)("peer", ssh="network")
        assert guest.facts["cid"] == 0
        assert " 0% packet loss" in ping(guest, BRIDGE)
        (link,) = json.loads(guest.ssh.run(["ip", "-json", "link", "show", "eth0"]).stdout)
        assert link["address"] == guest.facts["mac"]
    finally:
        qemu.close()


def test_address_without_a_device_fails_provisioning(guests: GuestFactory) -> None:
    guest = guests.launch(network="none", cmdline="harness.ip=10.1.0.9/16")
    assert guest.address is None
    with pytest.raises(ProvisionError, match="the guest's init failed: no network interface eth0"):
        guest.wait_ready()


# malformed rings that vhost in the kernel reads

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
        "movw $90, AVAILABLE1 + 2",  # still invalid after the first buffer is used
        "movw $8, AVAILABLE1 + 4",
        "movw $1, QUEUE1 + 12 ; movw $0, QUEUE1 + 14",
    ],
    ids=["wild address", "index ahead", "no such descriptor", "loop"],
)
def test_ring_that_the_kernel_refuses_ends_its_guest(
    kvm: KvmHypervisor,
    emulated_host: Host,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    *,
    name: str,
    change: str,
) -> None:
    if name == "vhost-net" and "AVAILABLE1 + 2" in change:
        # fails about every second time on fast machines; the other rings always end the guest
        why = "vhost-net does not always report an index ahead; the reason is unknown"
        request.applymarker(pytest.mark.xfail(reason=why, strict=False))
    kvm.in_network([])  # create the network
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


def test_passt_reaches_the_host(guests: GuestFactory, emulated_host: Host) -> None:
    guest = guests("passt", network="passt")
    assert guest.address is None, "the host cannot reach it"
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


# cleanup

FIND_NAMESPACE = """
import json, os, socket, sys
namespace, holders = f"net:[{sys.argv[1]}]", []
for pid in filter(str.isdigit, os.listdir("/proc")):
    for folder in (f"/proc/{pid}/ns", f"/proc/{pid}/fd"):
        try:
            links = [os.readlink(f"{folder}/{name}") for name in os.listdir(folder)]
        except OSError:
            continue
        holders += [folder] * (namespace in links)
print(json.dumps([holders, sorted(name for _, name in socket.if_nameindex())]))
"""


def namespace_holders(host: Host, identity: str) -> tuple[list[str], list[str]]:
    """Holders of a network namespace, and the interfaces of the host's own namespace."""
    done = host.run(["python3", "-I", "-S", "-c", FIND_NAMESPACE, identity])
    holders, interfaces = json.loads(done.stdout)
    return holders, interfaces


def close(hypervisor: KvmHypervisor) -> None:
    hypervisor.close()


def kill(hypervisor: KvmHypervisor) -> None:
    hypervisor.host.run(["kill", "-s", "KILL", str(hypervisor.agent.pid)])
    hypervisor.close()


@pytest.mark.parametrize("way", [close, kill])
def test_network_is_removed_with_the_hypervisor(
    emulated_host: Host, image: GuestImage, way: Callable[[KvmHypervisor], None]
) -> None:
    hypervisor = KvmHypervisor(emulated_host, lambda text: None)
    guest = factory(hypervisor, image, lambda guest: None).launch()
    where = hypervisor.in_network(["readlink", "/proc/self/ns/net"])
    identity = emulated_host.run(where).stdout.strip()[len("net:[") : -1]
    links = emulated_host.run(hypervisor.in_network(["ip", "-json", "link"])).stdout
    assert [link["ifname"] for link in json.loads(links)] == ["lo", "guests", "tap0"]
    holders, before = namespace_holders(emulated_host, identity)
    assert f"/proc/{guest.facts['pid']}/ns" in holders
    assert before == ["eth0", "lo"]
    way(hypervisor)
    guest.end_expected = True
    assert guest.facts["pid"] not in kvm_pids(emulated_host)
    for _ in range(20):
        holders, after = namespace_holders(emulated_host, identity)
        if not holders:
            break
        time.sleep(0.1)
    assert (holders, after) == ([], before)
