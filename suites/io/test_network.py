"""The network: streams, small packets and round trips with the host, and between guests."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from harness.guest.factory import GuestFactory, ready
from harness.guest.guest import Guest
from harness.hosts.base import Host
from harness.plugin.fixtures import RecordSample
from suites.cost import Cost, Spent
from suites.io import network

pytestmark = pytest.mark.compare_native
# of a stream, and of packets and round trips, which need no time to get up to speed
SECONDS = {"short": (2, 1), "full": (30, 30)}


@pytest.fixture(scope="module")
def tool(virt_host: Host, tmp_path_factory: pytest.TempPathFactory) -> str:
    """hv-rr, on the host."""
    return network.place_tool(virt_host, tmp_path_factory.mktemp("tool"))


def test_network(
    guest_factory: GuestFactory,
    tool: str,
    record_sample: RecordSample,
    virt_profile: str,
    boot: int,
) -> None:
    """A fresh guest, whose other end is on the host, and then a guest on the same bridge."""
    launched = [guest_factory.launch(name) for name in ("network", "other")]
    guest, other = map(ready, launched)
    if guest.address is None:
        for one in (guest, other):
            one.stop()
        pytest.skip(f"guests have no network here: {guest.facts.get('no_network', '')}")
    measured = Measured(guest, *SECONDS[virt_profile], record_sample, boot)
    with network.serving(guest):
        measured.with_the_host(tool)
        measured.with_another(other)
    other.stop()
    guest.stop()


@dataclass(frozen=True)
class Measured:
    """A guest whose servers listen, how long a stream and everything else takes, and where the
    figures go."""

    guest: Guest
    seconds_of_stream: int
    seconds: int
    record: RecordSample
    boot: int

    def with_the_host(self, tool: str) -> None:
        """Streams both ways, small packets, and round trips: there and back."""
        client = network.on_host(self.guest)
        network.stream(client, self.guest, 1)  # warm-up
        self.stream(client, "to_guest")
        self.stream(client, "from_guest", "--reverse")
        cost = Cost(self.guest)
        rate, lost, arrived = network.small_packets(client, self.guest, self.seconds)
        spent = cost.spent()
        self.keep("udp64.to_guest", rate, "1/s", "higher")
        self.keep("udp64.lost", lost, "%")
        self.cost("udp64.to_guest", spent, arrived, "packet")
        self.trips(client, tool, "trips")

    def with_another(self, other: Guest) -> None:
        """A stream and round trips from another guest; what they cost is the measured one's."""
        client = network.in_guest(other)
        network.stream(client, self.guest, 1)  # warm-up
        self.stream(client, "between_guests")
        self.trips(client, "hv-rr", "trips.between_guests")

    def stream(self, client: network.Client, name: str, *options: str) -> None:
        """One TCP stream."""
        cost = Cost(self.guest)
        rate, amount = network.stream(client, self.guest, self.seconds_of_stream, *options)
        spent = cost.spent()
        self.keep(f"stream.{name}", rate, "Mbit/s", "higher")
        self.cost(f"stream.{name}", spent, amount, "MiB")

    def trips(self, client: network.Client, tool: str, name: str) -> None:
        """Round trips of a byte."""
        cost = Cost(self.guest)
        found = network.trips(client, tool, self.guest, self.seconds)
        spent = cost.spent()
        self.keep(name, found["rate"], "1/s", "higher")
        for percentile in ("p50", "p99"):
            self.keep(f"{name}.{percentile}", found[percentile], "us")
        self.cost(name, spent, found["count"])

    def keep(self, metric: str, value: float, unit: str, better: str = "lower") -> None:
        self.record(f"net.{metric}", value, unit, better, boot=self.boot)

    def cost(self, metric: str, spent: Spent, operations: float, one: str = "op") -> None:
        spent.record(self.record, f"net.{metric}", operations, one, boot=self.boot)
