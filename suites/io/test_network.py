"""The network: streams, small packets and round trips with the host, and between guests."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from harness.fixtures import RecordSample
from harness.guest.factory import GuestFactory, ready
from harness.guest.guest import Guest
from harness.hosts.base import Host
from suites.cost import Cost
from suites.io import network

pytestmark = pytest.mark.baseline
# of a stream, and of packets and round trips, which need no time to get up to speed
SECONDS = {"short": (2, 1), "full": (30, 30)}


@pytest.fixture(scope="module")
def tool(host: Host, tmp_path_factory: pytest.TempPathFactory) -> str:
    """hv-rr, on the host."""
    return network.place_tool(host, tmp_path_factory.mktemp("tool"))


def test_network(
    guest_factory: GuestFactory,
    tool: str,
    record_sample: RecordSample,
    profile: str,
    boot: int,
) -> None:
    """A fresh guest, whose other end is on the host, and then a guest on the same bridge."""
    launched = [guest_factory.launch(name) for name in ("network", "other")]
    guest, other = map(ready, launched)
    if guest.address is None:
        for one in (guest, other):
            one.stop()
        pytest.skip(f"guests have no network here: {guest.facts.get('no_network', '')}")
    measured = Measured(guest, *SECONDS[profile], record_sample, boot)
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
    stream: int
    seconds: int
    record: RecordSample
    boot: int

    def keep(self, metric: str, value: float, unit: str, better: str = "lower") -> None:
        self.record(f"net.{metric}", value, unit, better, boot=self.boot)

    def with_the_host(self, tool: str) -> None:
        """Streams both ways, small packets, and round trips: there and back."""
        guest, host = self.guest, network.on_host(self.guest)
        network.stream(host, guest, 1)  # warm-up
        for name, options in (("to_guest", ()), ("from_guest", ("--reverse",))):
            cost = Cost(guest)
            rate, amount = network.stream(host, guest, self.stream, *options)
            spent = cost.spent()
            self.keep(f"stream.{name}", rate, "Mbit/s", "higher")
            for what, value, unit in spent.per(amount, "MiB"):
                self.keep(f"stream.{name}.{what}", value, unit)
        arrived, lost = network.small_packets(host, guest, self.seconds)
        self.keep("udp64.to_guest", arrived, "1/s", "higher")
        self.keep("udp64.lost", lost, "%")
        cost = Cost(guest)
        found = network.trips(host, tool, guest, self.seconds)
        spent = cost.spent()
        self._trips("trips", found)
        for what, value, unit in spent.per(found["count"]):
            self.keep(f"trips.{what}", value, unit)

    def with_another(self, other: Guest) -> None:
        """A stream and round trips from another guest."""
        client = network.in_guest(other)
        network.stream(client, self.guest, 1)  # warm-up
        rate, _ = network.stream(client, self.guest, self.stream)
        self.keep("stream.between_guests", rate, "Mbit/s", "higher")
        found = network.trips(client, "hv-rr", self.guest, self.seconds)
        self._trips("trips.between_guests", found)

    def _trips(self, name: str, found: dict[str, float]) -> None:
        self.keep(name, found["rate"], "1/s", "higher")
        for percentile in ("p50", "p99"):
            self.keep(f"{name}.{percentile}", found[percentile], "us")
