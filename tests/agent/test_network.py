"""The guests' network on this machine: its bridge, taps on it, the way in, and its end."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.agent.network import ADDRESS, BRIDGE, Network
from harness.agent.tap import open_tap
from harness.hosts.local import LocalHost
from harness.kvm.errors import ConfigError
from harness.vmm.devices.virtio.net import HEADER
from tests.waiting import wait_until

NOBODY = 65534
FRAME = b"\xff" * 6 + bytes.fromhex("020000000001") + b"\x88\xb5" + b"a frame".ljust(46, b"\0")


@pytest.fixture
def network() -> Iterator[Network]:
    made = Network()
    try:
        made.facts()
    except ConfigError as error:
        pytest.skip(f"no network here: {error.cause}")
    yield made
    made.close()


@pytest.fixture
def taps(network: Network) -> Network:
    """The same, where taps can be made as well."""
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("/dev/net/tun is not there or not ours to open")
    return network


def within(network: Network, work: Callable[[], Any]) -> Any:
    """What `work` returns, done by a child that enters the network."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            network.enter()
            answer = {"result": work()}
        except BaseException:
            answer = {"error": traceback.format_exc()}
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = json.loads(pipe.read())
    os.waitpid(pid, 0)
    assert "error" not in answer, answer["error"]
    return answer["result"]


def interfaces() -> list[str]:
    return sorted(name for _, name in socket.if_nameindex())


def routes() -> list[list[str]]:
    """Destination, gateway and mask of each, as the kernel prints them."""
    table = Path("/proc/thread-self/net/route").read_text().splitlines()[1:]
    return [[row.split()[at] for at in (1, 2, 7)] for row in table]


def users(identity: int) -> list[str]:
    """Who holds a network namespace: by being in it, by a descriptor, by a mount."""
    name = f"net:[{identity}]"
    found = []
    for pattern in ("[0-9]*/ns/net", "[0-9]*/fd/*"):
        for path in Path("/proc").glob(pattern):
            try:
                if str(path.readlink()) == name:
                    found.append(str(path))
            except OSError:
                continue
    return found


def test_there_is_the_bridge_and_no_way_out(network: Network) -> None:
    before = interfaces()
    assert within(network, interfaces) == [BRIDGE, "lo"]
    # 10.1.0.0/16 at the bridge itself, and nothing else
    assert within(network, routes) == [["0000010A", "00000000", "0000FFFF"]]
    assert interfaces() == before


def test_another_network_is_not_made_again(network: Network) -> None:
    assert network.facts() == network.facts()


def test_nobody_enters_what_was_not_made() -> None:
    with pytest.raises(ConfigError, match="was not made"):
        Network().enter()


def test_it_is_gone_when_nobody_holds_it(network: Network) -> None:
    identity = Path(network.facts()["namespaces"]["net"]).stat().st_ino
    assert users(identity)
    network.close()
    assert wait_until(lambda: not users(identity))


ROOTLESS = """
import os, socket
from harness.agent.network import Network
network = Network()
print(*network.facts()["namespaces"])
network.enter()
print(*sorted(name for _, name in socket.if_nameindex()))
print(os.geteuid())
"""


def test_without_root_it_is_in_a_user_namespace(network: Network) -> None:
    if os.geteuid():
        pytest.skip("for root, who can be somebody else")
    root, python = Path(__file__).parents[2], shutil.which("python3", path=os.defpath)
    if python is None or root.stat().st_mode & 5 != 5:
        pytest.skip("nobody but root may run Python, or read this checkout")
    done = subprocess.run(
        [python, "-B", "-c", ROOTLESS],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        env={"PYTHONPATH": str(root)},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    if "no network namespace" in done.stderr:
        pytest.skip("user namespaces are not allowed here")
    assert done.stdout.splitlines() == ["user net", f"{BRIDGE} lo", str(NOBODY)], done.stderr


def test_taps_are_on_the_bridge_and_end_with_their_descriptor(taps: Network) -> None:
    def work() -> Any:
        fds = [open_tap(BRIDGE), open_tap(BRIDGE)]
        during = interfaces()
        for fd in fds:
            os.close(fd)
        return [during, interfaces()]

    during, after = within(taps, work)
    assert during == [BRIDGE, "lo", "tap0", "tap1"]
    assert after == [BRIDGE, "lo"]


def test_a_frame_goes_from_tap_to_tap(taps: Network) -> None:
    def work() -> bool:
        one, other = open_tap(BRIDGE), open_tap(BRIDGE)
        got: list[bytes] = []

        def arrived() -> bool:
            # the kernel's own neighbour discovery is on the wire as well
            try:
                got.append(os.read(other, 4096)[HEADER:])
            except BlockingIOError:
                os.write(one, bytes(HEADER) + FRAME)
            return FRAME in got

        return wait_until(arrived)

    assert within(taps, work)


def test_a_bridge_that_is_not_there(taps: Network) -> None:
    def work() -> list[str]:
        try:
            open_tap("absent")
        except ConfigError as error:
            return [error.cause, *interfaces()]
        return []

    assert within(taps, work) == ["no tap on bridge 'absent': No such device", BRIDGE, "lo"]


SERVER = """
import socket
server = socket.create_server(("10.1.0.1", 0))
print(server.getsockname()[1], flush=True)
client, _ = server.accept()
while data := client.recv(100): client.sendall(data.upper())
"""


def test_the_host_reaches_it_through_a_relay(network: Network) -> None:
    places = network.facts()["namespaces"]
    nsenter = ["nsenter", "--preserve-credentials", *(f"--{n}={p}" for n, p in places.items())]
    host = LocalHost()
    server = host.spawn([*nsenter, "--", sys.executable, "-c", SERVER])
    port = int(server.readline())
    stream = host.connect_tcp(ADDRESS, port, 5.0, [*nsenter, "--"])
    stream.send(b"hello")
    assert stream.recv(100) == b"HELLO"
    stream.close()
    assert server.wait(5.0) == 0, "the relay ends with its stream"
    with pytest.raises(ConnectionRefusedError, match=f"TCP {ADDRESS}:{port} on local"):
        host.connect_tcp(ADDRESS, port, 5.0, [*nsenter, "--"])
    host.close()


def test_the_ways_to_reach_guests_are_told(tmp_path: Path) -> None:
    """By a whole supervisor: what this machine has, or what it lacks, and the hint."""
    program = [sys.executable, "-m", "harness.agent"]
    asked = b'{"id": 1, "op": "connectivity"}\n'
    done = subprocess.run(program, input=asked, capture_output=True, check=True)
    answer = next(json.loads(line) for line in done.stdout.splitlines() if b'"id": 1' in line)
    ways = answer["result"]
    assert isinstance(ways["vsock"], bool)
    if "network" in ways:
        assert ways["network"]["bridge"] == BRIDGE
    else:
        assert ways["cause"]
        assert ways["hint"]
    assert done.stderr == b""


def test_a_guest_without_a_network_to_enter_is_refused(tmp_path: Path) -> None:
    """Asked for before "connectivity": it must not end up on a bridge of the host's."""
    program = [sys.executable, "-m", "harness.agent"]
    networks = [{"mac": "02:00:00:00:00:01", "bridge": "guests"}]
    arguments = {"kernel": "/absent", "networks": networks}
    line = json.dumps({"id": 1, "guest": "g", "op": "create", "arguments": arguments}) + "\n"
    process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    process.stdin.write(line.encode())
    process.stdin.flush()
    answer = next(json.loads(told) for told in process.stdout if b'"id": 1' in told)
    assert "was not made" in answer["error"]["cause"]
    process.communicate()


def test_a_header_is_what_vhost_wants() -> None:
    """struct virtio_net_hdr_v1: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset,
    num_buffers."""
    assert struct.calcsize("<BBHHHHH") == HEADER
