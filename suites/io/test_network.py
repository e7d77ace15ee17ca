"""Network performance of a guest: TCP streams, small UDP packets and TCP round trips.

The other end is the host, then a second guest on the same bridge. Units: Mbit/s; packets and round
trips per second; us; host CPU time and exits of the measured guest per MiB, packet or round trip.
Control: a container on the same bridge (native). Each boot is a fresh pair of guests.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from harness.guest.factory import GuestFactory, wait_ready_or_stop
from harness.guest.guest import Guest
from harness.hosts.base import Host
from harness.plugin.fixtures import RecordSample
from harness.results.schema import Better
from suites.cost import ResourceUsage, UsageMeter
from suites.io import network

pytestmark = pytest.mark.compare_native
# (a stream, any other measurement), by profile; a stream needs time to reach its rate
SECONDS = {"short": (2, 1), "full": (30, 30)}


@pytest.fixture(scope="module")
def hv_rr(virt_host: Host, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of hv-rr on the host."""
    return network.place_hv_rr(virt_host, tmp_path_factory.mktemp("hv-rr"))


def test_network(
    guest_factory: GuestFactory,
    hv_rr: str,
    record_sample: RecordSample,
    virt_profile: str,
    boot: int,
) -> None:
    """A fresh guest against the host, then against a second guest on the same bridge."""
    launched = [guest_factory.launch(name) for name in ("network", "other")]
    guest, other = map(wait_ready_or_stop, launched)
    if guest.address is None:
        for one in (guest, other):
            one.stop()
        pytest.skip(f"guests have no network here: {guest.facts.get('no_network', '')}")
    benchmark = NetworkBenchmark(guest, *SECONDS[virt_profile], record_sample, boot)
    with network.serving(guest):
        benchmark.measure_with_host(hv_rr)
        benchmark.measure_with_guest(other)
    other.stop()
    guest.stop()


@dataclass(frozen=True)
class NetworkBenchmark:
    """Measures a guest whose servers listen, and records the samples of one boot.

    stream_seconds, seconds: how long a stream and any other measurement runs.
    """

    guest: Guest
    stream_seconds: int
    seconds: int
    record_sample: RecordSample
    boot: int

    def measure_with_host(self, hv_rr: str) -> None:
        """Streams in both directions, small packets to the guest, and round trips."""
        client = network.on_host(self.guest)
        network.stream(client, self.guest, 1)  # warm-up
        self.stream(client, "to_guest")
        self.stream(client, "from_guest", "--reverse")
        meter = UsageMeter(self.guest)
        rate, loss, received = network.small_packets(client, self.guest, self.seconds)
        usage = meter.read()
        self.record("udp64.to_guest", rate, "1/s", "higher")
        self.record("udp64.loss", loss, "%")
        self.record_usage("udp64.to_guest", usage, received, "packet")
        self.round_trips(client, hv_rr, "round_trips")

    def measure_with_guest(self, other: Guest) -> None:
        """A stream and round trips from another guest. Usage is that of the measured guest only."""
        client = network.in_guest(other)
        network.stream(client, self.guest, 1)  # warm-up
        self.stream(client, "between_guests")
        self.round_trips(client, "hv-rr", "round_trips.between_guests")

    def stream(self, client: network.Client, name: str, *options: str) -> None:
        """One TCP stream: Mbit/s, and usage for each MiB."""
        meter = UsageMeter(self.guest)
        rate, mib = network.stream(client, self.guest, self.stream_seconds, *options)
        usage = meter.read()
        self.record(f"stream.{name}", rate, "Mbit/s", "higher")
        self.record_usage(f"stream.{name}", usage, mib, "MiB")

    def round_trips(self, client: network.Client, hv_rr: str, name: str) -> None:
        """TCP round trips of a byte: rate, latencies, and usage for each."""
        meter = UsageMeter(self.guest)
        figures = network.round_trips(client, hv_rr, self.guest, self.seconds)
        usage = meter.read()
        self.record(name, figures["rate"], "1/s", "higher")
        for percentile in ("p50", "p99"):
            self.record(f"{name}.{percentile}", figures[percentile], "us")
        self.record_usage(name, usage, figures["count"])

    def record(self, metric: str, value: float, unit: str, better: Better = "lower") -> None:
        self.record_sample(f"net.{metric}", value, unit, better, boot=self.boot)

    def record_usage(
        self, metric: str, usage: ResourceUsage, operations: float, operation_unit: str = "op"
    ) -> None:
        usage.record(
            self.record_sample, f"net.{metric}", operations, operation_unit, boot=self.boot
        )
