"""Runs network workloads: iperf3 and hv-rr between a guest's servers and a client.

The client runs on the host, in the guests' network namespace, or in another guest. A container
(native) uses the same bridge.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from harness.errors import WorkloadError
from harness.guest.guest import Guest
from harness.hosts.base import Host
from harness.hypervisors.capabilities import SupportsHostNetwork
from harness.ssh.process import Process
from images.build import compile_c

PORT = 5201
TIMEOUT = 60.0  # seconds
CLIENT_HINT = "check that the client reaches the guest's address, and run its command by hand"


class Client(Protocol):
    """Runs a command at the client's end; returns its standard output."""

    def __call__(self, argv: list[str]) -> str: ...


def on_host(guest: Guest) -> Client:
    """A client on the guest's host, in the guests' network.

    Skips the test if the hypervisor gives the host no access to that network.
    """
    hypervisor, host = guest.hypervisor, guest.hypervisor.host
    if not isinstance(hypervisor, SupportsHostNetwork):
        pytest.skip(f"{hypervisor.name} has no guest network that the host can use")
    in_network = hypervisor.in_network

    def run(argv: list[str]) -> str:
        return host.run(in_network(argv), timeout=TIMEOUT).stdout

    return run


def in_guest(guest: Guest) -> Client:
    """A client in a guest."""
    return lambda argv: guest.ssh.run(argv, timeout=TIMEOUT).stdout


@contextlib.contextmanager
def serving(guest: Guest) -> Iterator[None]:
    """Run the servers of iperf3 and hv-rr in the guest during the block."""
    servers = [
        _start_server(guest, "iperf3", "--server", "--port", str(PORT), "--forceflush"),
        _start_server(guest, "hv-rr", str(PORT + 1)),
    ]
    try:
        yield
    finally:
        for server in servers:
            server.kill()


def place_hv_rr(host: Host, folder: Path) -> str:
    """Compile hv-rr in a temporary folder and copy it to the host; its path there."""
    program = folder / "hv-rr"
    program.write_bytes(compile_c(("-static",), ("tools/hv-rr.c",), folder / "scratch"))
    program.chmod(0o755)
    return host.place(program, executable=True)


def _start_server(guest: Guest, *argv: str) -> Process:
    """Start a server in the guest, and wait until it prints that it listens."""
    server = guest.ssh.popen(argv)
    while line := server.readline():
        if b"listening" in line.lower():
            return server
    raise WorkloadError(
        f"{argv[0]} does not listen: {server.stderr_tail()}",
        hint=f"run {argv[0]} by hand in the guest",
        guest=guest.name,
    )


def iperf3(client: Client, guest: Guest, seconds: int, *options: str) -> dict[str, Any]:
    """Run an iperf3 client against the guest's server; the "end" object of its JSON.

    Raises WorkloadError if the JSON is invalid.
    """
    argv = ["iperf3", "--client", str(guest.address), "--port", str(PORT), "--json"]
    output = client([*argv, "--time", str(seconds), *options])
    try:
        end: dict[str, Any] = json.loads(output)["end"]
    except (ValueError, KeyError, TypeError) as error:
        raise WorkloadError(
            f"iperf3 printed no valid result: {output[-200:]!r}", hint=CLIENT_HINT, stage="run"
        ) from error
    return end


def stream(client: Client, guest: Guest, seconds: int, *options: str) -> tuple[float, float]:
    """One TCP stream to the guest, or with "--reverse" from it: Mbit/s and MiB received."""
    received = iperf3(client, guest, seconds, *options).get("sum_received", {})
    rate, size = received.get("bits_per_second", 0), received.get("bytes", 0)
    if not (rate > 0 and size > 0):
        raise WorkloadError(
            f"iperf3 received no data: {received}", hint=CLIENT_HINT, stage="run", guest=guest.name
        )
    return rate / 1e6, size / (1 << 20)


def small_packets(client: Client, guest: Guest, seconds: int) -> tuple[float, float, float]:
    """UDP datagrams of 64 bytes to the guest: packets per second, % lost, packets received."""
    udp = ("--udp", "--length", "64", "--bitrate", "0")
    total = iperf3(client, guest, seconds, *udp).get("sum", {})
    packets, lost_packets = total.get("packets", 0), total.get("lost_packets", 0)
    elapsed = total.get("seconds", 0)
    if not (packets > lost_packets and elapsed > 0):
        raise WorkloadError(
            f"iperf3 received no data: {total}", hint=CLIENT_HINT, stage="run", guest=guest.name
        )
    received = packets - lost_packets
    return received / elapsed, 100 * lost_packets / packets, received


def round_trips(client: Client, hv_rr: str, guest: Guest, seconds: int) -> dict[str, float]:
    """TCP round trips of one byte by hv-rr: "count", "rate" (1/s), "p50" and "p99" (us)."""
    output = client([hv_rr, str(guest.address), str(PORT + 1), str(seconds)])
    try:
        count, elapsed, p50, p99 = map(float, output.split()[1::2])
        return {"count": count, "rate": count / elapsed, "p50": p50, "p99": p99}
    except (ValueError, ZeroDivisionError) as error:
        raise WorkloadError(
            f"hv-rr printed no valid result: {output[-200:]!r}", hint=CLIENT_HINT, stage="run"
        ) from error
