"""The ends of a network workload, guests' and the host's, and what the tools between them say.

iperf3 and hv-rr listen in the guest. The other end is on the host, in the guests' network, or in
another guest; natively it goes over the same bridge.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from harness.errors import WorkloadError
from harness.guest.guest import Guest
from harness.hosts.base import Host
from harness.hypervisors.supervised import SupervisedHypervisor
from harness.ssh.process import Process
from images.build import compile_c

PORT = 5201
TIMEOUT = 60.0


class Client(Protocol):
    """Runs a command where the other end is."""

    def __call__(self, argv: list[str]) -> str: ...


def on_host(guest: Guest) -> Client:
    """The guest's host, in the guests' network."""
    hypervisor = guest.hypervisor
    assert isinstance(hypervisor, SupervisedHypervisor)

    def run(argv: list[str]) -> str:
        return hypervisor.host.run(hypervisor.in_network(argv), timeout=TIMEOUT).stdout

    return run


def in_guest(guest: Guest) -> Client:
    """Another guest."""
    return lambda argv: guest.ssh.run(argv, timeout=TIMEOUT).stdout


@contextlib.contextmanager
def serving(guest: Guest) -> Iterator[None]:
    """Servers of both tools in the guest, as long as the block lasts."""
    servers = [
        _listening(guest, "iperf3", "--server", "--port", str(PORT), "--forceflush"),
        _listening(guest, "hv-rr", str(PORT + 1)),
    ]
    try:
        yield
    finally:
        for server in servers:
            server.kill()


def place_tool(host: Host, folder: Path) -> str:
    """hv-rr, on the host, by way of a folder for temporary files; its path there."""
    program = folder / "hv-rr"
    program.write_bytes(compile_c(("-static",), ("tools/hv-rr.c",), folder / "scratch"))
    program.chmod(0o755)
    return host.place(program)


def _listening(guest: Guest, *argv: str) -> Process:
    """A server in the guest, once it says so."""
    server = guest.ssh.popen(argv)
    while line := server.readline():
        if b"listening" in line.lower():
            return server
    raise WorkloadError(f"{argv[0]} does not listen: {server.stderr_tail()}", guest=guest.name)


def iperf3(client: Client, guest: Guest, seconds: int, *options: str) -> dict[str, Any]:
    """What iperf3 measured against the guest's server: the "end" of its JSON. Raises
    WorkloadError."""
    argv = ["iperf3", "--client", str(guest.address), "--port", str(PORT), "--json"]
    told = client([*argv, "--time", str(seconds), *options])
    try:
        end: dict[str, Any] = json.loads(told)["end"]
    except (ValueError, KeyError, TypeError) as error:
        raise WorkloadError(f"iperf3 measured nothing: {told[-200:]!r}", stage="run") from error
    return end


def stream(client: Client, guest: Guest, seconds: int, *options: str) -> tuple[float, float]:
    """Mbit/s of one TCP stream as they arrived, and MiB that did. "--reverse": from the guest."""
    arrived = iperf3(client, guest, seconds, *options).get("sum_received", {})
    rate, amount = arrived.get("bits_per_second", 0), arrived.get("bytes", 0)
    if not (rate > 0 and amount > 0):
        raise WorkloadError(f"iperf3: nothing arrived: {arrived}", stage="run", guest=guest.name)
    return rate / 1e6, amount / (1 << 20)


def small_packets(client: Client, guest: Guest, seconds: int) -> tuple[float, float, float]:
    """UDP datagrams of 64 bytes to the guest: how many a second arrived, per cent lost, and the
    number that arrived."""
    udp = ("--udp", "--length", "64", "--bitrate", "0")
    total = iperf3(client, guest, seconds, *udp).get("sum", {})
    packets, lost = total.get("packets", 0), total.get("lost_packets", 0)
    took = total.get("seconds", 0)
    if not (packets > lost and took > 0):
        raise WorkloadError(f"iperf3: nothing arrived: {total}", stage="run", guest=guest.name)
    return (packets - lost) / took, 100 * lost / packets, packets - lost


def trips(client: Client, tool: str, guest: Guest, seconds: int) -> dict[str, float]:
    """Round trips of one byte by TCP: "count", "rate" (1/s), "p50", "p99" (us)."""
    told = client([tool, str(guest.address), str(PORT + 1), str(seconds)])
    try:
        count, took, middle, last = map(float, told.split()[1::2])
        return {"count": count, "rate": count / took, "p50": middle, "p99": last}
    except (ValueError, ZeroDivisionError) as error:
        raise WorkloadError(f"hv-rr measured nothing: {told[-200:]!r}", stage="run") from error
