"""The network: streams, small packets and round trips with the host, and between guests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.fixtures import RecordSample
from harness.guest.factory import GuestFactory
from harness.guest.guest import Guest
from harness.hosts.base import Host
from images.build import compile_c
from suites.cost import Cost
from suites.io import network

pytestmark = pytest.mark.baseline
SECONDS = {"short": 3, "full": 30}


@pytest.fixture(scope="module")
def tool(host: Host, tmp_path_factory: pytest.TempPathFactory) -> str:
    """hv-rr, on the host."""
    folder = tmp_path_factory.mktemp("tool")
    program = Path(folder, "hv-rr")
    program.write_bytes(compile_c(("-static",), ("tools/hv-rr.c",), folder / "scratch"))
    program.chmod(0o755)
    return host.place(program)


@pytest.fixture
def server(guest_factory: GuestFactory, boot: int) -> Iterator[Guest]:
    """A fresh guest in which both tools listen."""
    guest = guest_factory(f"network-{boot}")
    if guest.address is None:
        guest.stop()
        pytest.skip(f"guests have no network here: {guest.facts.get('no_network', '')}")
    with network.serving(guest):
        yield guest
    guest.stop()


def test_with_the_host(
    server: Guest, tool: str, record_sample: RecordSample, profile: str, boot: int
) -> None:
    """The other end is on the host. Round trips: there and back."""
    seconds, host = SECONDS[profile], network.on_host(server)
    network.stream(host, server, 1)  # warm-up
    for name, options in (("to_guest", ()), ("from_guest", ("--reverse",))):
        cost = Cost(server)
        rate, amount = network.stream(host, server, seconds, *options)
        spent = cost.spent()
        record_sample(f"net.stream.{name}", rate, "Mbit/s", "higher", boot=boot)
        for what, value, unit in spent.per(amount, "MiB"):
            record_sample(f"net.stream.{name}.{what}", value, unit, "lower", boot=boot)
    arrived, lost = network.small_packets(host, server, seconds)
    record_sample("net.udp64.to_guest", arrived, "1/s", "higher", boot=boot)
    record_sample("net.udp64.lost", lost, "%", "lower", boot=boot)
    cost = Cost(server)
    found = network.trips(host, tool, server, seconds)
    spent = cost.spent()
    record_sample("net.trips", found["rate"], "1/s", "higher", boot=boot)
    for name in ("p50", "p99"):
        record_sample(f"net.trips.{name}", found[name], "us", "lower", boot=boot)
    for what, value, unit in spent.per(found["count"]):
        record_sample(f"net.trips.{what}", value, unit, "lower", boot=boot)


def test_with_another_guest(
    server: Guest,
    guest_factory: GuestFactory,
    record_sample: RecordSample,
    profile: str,
    boot: int,
) -> None:
    """The other end is a guest on the same bridge."""
    other = guest_factory(f"other-{boot}")
    client, seconds = network.in_guest(other), SECONDS[profile]
    network.stream(client, server, 1)  # warm-up
    rate, _ = network.stream(client, server, seconds)
    record_sample("net.stream.between_guests", rate, "Mbit/s", "higher", boot=boot)
    found = network.trips(client, "hv-rr", server, seconds)
    record_sample("net.trips.between_guests", found["rate"], "1/s", "higher", boot=boot)
    for name in ("p50", "p99"):
        record_sample(f"net.trips.between_guests.{name}", found[name], "us", "lower", boot=boot)
    other.stop()
