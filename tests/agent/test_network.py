"""The guests' network on this machine: bridge, taps, access from the host, removal."""

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
    network = Network()
    try:
        network.facts()
    except ConfigError as error:
        pytest.skip(f"no network here: {error.cause}")
    yield network
    network.close()


@pytest.fixture
def taps(network: Network) -> Network:
    """The network, on a machine that permits taps."""
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("/dev/net/tun is missing or not accessible")
    return network


def within(network: Network, work: Callable[[], Any]) -> Any:
    """The result of `work` in a child process that has entered the network."""
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
    """Destination, gateway and mask of each route, in the kernel's format."""
    table = Path("/proc/thread-self/net/route").read_text().splitlines()[1:]
    return [[row.split()[at] for at in (1, 2, 7)] for row in table]


def users(identity: int) -> list[str]:
    """The /proc entries of processes in a network namespace, and of descriptors of it."""
    name = f"net:[{identity}]"
    paths = []
    for pattern in ("[0-9]*/ns/net", "[0-9]*/fd/*"):
        for path in Path("/proc").glob(pattern):
            try:
                if str(path.readlink()) == name:
                    paths.append(str(path))
            except OSError:
                continue
    return paths


def test_network_has_a_bridge_and_no_route_outside(network: Network) -> None:
    before = interfaces()
    assert within(network, interfaces) == [BRIDGE, "lo"]
    # only 10.1.0.0/16 on the bridge
    assert within(network, routes) == [["0000010A", "00000000", "0000FFFF"]]
    assert interfaces() == before


def test_network_is_created_once(network: Network) -> None:
    assert network.facts() == network.facts()


def test_enter_requires_a_created_network() -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        Network().enter()


def test_namespace_ends_with_its_last_user(network: Network) -> None:
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


def test_without_root_the_network_is_in_a_user_namespace(network: Network) -> None:
    if os.geteuid():
        pytest.skip("needs root, to become another user")
    root, python = Path(__file__).parents[2], shutil.which("python3", path=os.defpath)
    if python is None or root.stat().st_mode & 5 != 5:
        pytest.skip("only root can run Python or read this checkout")
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
        pytest.skip("this host forbids user namespaces")
    assert done.stdout.splitlines() == ["user net", f"{BRIDGE} lo", str(NOBODY)], done.stderr


def test_taps_end_with_their_descriptor(taps: Network) -> None:
    def work() -> Any:
        fds = [open_tap(BRIDGE), open_tap(BRIDGE)]
        during = interfaces()
        for fd in fds:
            os.close(fd)
        return [during, interfaces()]

    during, after = within(taps, work)
    assert during == [BRIDGE, "lo", "tap0", "tap1"]
    assert after == [BRIDGE, "lo"]


def test_bridge_forwards_frames_between_taps(taps: Network) -> None:
    def work() -> bool:
        one, other = open_tap(BRIDGE), open_tap(BRIDGE)
        frames: list[bytes] = []

        def arrived() -> bool:
            # neighbour discovery of the kernel may arrive as well
            try:
                frames.append(os.read(other, 4096)[HEADER:])
            except BlockingIOError:
                os.write(one, bytes(HEADER) + FRAME)
            return FRAME in frames

        return wait_until(arrived)

    assert within(taps, work)


def test_tap_on_a_missing_bridge_is_an_error(taps: Network) -> None:
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


def test_host_connects_through_a_relay(network: Network) -> None:
    namespaces = network.facts()["namespaces"]
    nsenter = ["nsenter", "--preserve-credentials", *(f"--{n}={p}" for n, p in namespaces.items())]
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


def test_connectivity_names_the_network_or_the_cause(tmp_path: Path) -> None:
    """A supervisor's answer: this machine's network, or cause and hint."""
    program = [sys.executable, "-m", "harness.agent"]
    request = b'{"id": 1, "op": "connectivity"}\n'
    done = subprocess.run(program, input=request, capture_output=True, check=True)
    answer = next(json.loads(line) for line in done.stdout.splitlines() if b'"id": 1' in line)
    result = answer["result"]
    assert isinstance(result["vsock"], bool)
    if "network" in result:
        assert result["network"]["bridge"] == BRIDGE
    else:
        assert result["cause"]
        assert result["hint"]
    assert done.stderr == b""


def test_guest_is_refused_before_the_network_exists(tmp_path: Path) -> None:
    """Without a request for "connectivity": the guest must not join a bridge of the host."""
    program = [sys.executable, "-m", "harness.agent"]
    networks = [{"mac": "02:00:00:00:00:01", "bridge": "guests"}]
    arguments = {"kernel": "/absent", "networks": networks}
    request = json.dumps({"id": 1, "guest": "g", "op": "create", "arguments": arguments}) + "\n"
    process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    process.stdin.write(request.encode())
    process.stdin.flush()
    answer = next(json.loads(line) for line in process.stdout if b'"id": 1' in line)
    assert "does not exist" in answer["error"]["cause"]
    process.communicate()


def test_header_has_the_size_that_vhost_requires() -> None:
    """struct virtio_net_hdr_v1: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset,
    num_buffers."""
    assert struct.calcsize("<BBHHHHH") == HEADER
