"""Network performance of the built-in VMM and of QEMU in alternation, both with vhost-net.

    pytest benchmarks/test_network_vs_qemu.py

Measured between the host and a guest on a bridge: one TCP stream in each direction (iperf3, Mbit/s)
and round trips of one byte (hv-rr, 1/s and us); the host CPU time of each, with the vhost worker's;
and exits to user space. The benchmark prints the figures and asserts none of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from benchmarks import pairs
from harness.guest.factory import GuestFactory
from harness.guest.guest import Guest
from harness.hosts.base import Host
from harness.hypervisors.base import Hypervisor
from harness.plugin.fixtures import RecordSample
from harness.results.schema import Better
from suites.cost import UsageMeter
from suites.io import network

PAIRS = 12
SECONDS = 4
UNITS: dict[str, tuple[str, Better]] = {
    "stream.to_guest": ("Mbit/s", "higher"),
    "stream.from_guest": ("Mbit/s", "higher"),
    "round_trips": ("1/s", "higher"),
    "round_trips.p50": ("us", "lower"),
    "round_trips.p99": ("us", "lower"),
    "stream.to_guest.cpu": ("us/MiB", "lower"),
    "stream.from_guest.cpu": ("us/MiB", "lower"),
    "round_trips.cpu": ("us", "lower"),
}


class NetworkTarget:
    """A guest in which the servers of both tools listen."""

    def __init__(self, guest: Guest, hv_rr: str) -> None:
        self._guest = guest
        self._client = network.on_host(guest)
        self._hv_rr = hv_rr

    def measure(self) -> dict[str, float]:
        """Measure every metric of UNITS once."""
        values: dict[str, float] = {}
        for name, options in (("to_guest", ()), ("from_guest", ("--reverse",))):
            meter = UsageMeter(self._guest)
            rate, mib = network.stream(self._client, self._guest, SECONDS, *options)
            values[f"stream.{name}"] = rate
            values[f"stream.{name}.cpu"] = meter.read().counters["cgroup_cpu_usec"] / mib
        meter = UsageMeter(self._guest)
        figures = network.round_trips(self._client, self._hv_rr, self._guest, SECONDS)
        cpu = meter.read().counters["cgroup_cpu_usec"]
        values["round_trips.cpu"] = cpu / figures["count"]
        values["round_trips"] = figures["rate"]
        for percentile in ("p50", "p99"):
            values[f"round_trips.{percentile}"] = figures[percentile]
        return values

    def user_exits(self) -> int | None:
        """Exits that reached the VMM since its start; None without a counter."""
        return self._guest.statistics().get("user_exits")


@contextlib.contextmanager
def network_target(factory: GuestFactory, hv_rr: str) -> Iterator[NetworkTarget]:
    """A guest with running servers, after a warm-up measurement."""
    guest = factory("network")
    with network.serving(guest):
        target = NetworkTarget(guest, hv_rr)
        target.measure()
        yield target
    guest.stop()


@pytest.fixture(scope="module")
def hv_rr(virt_host: Host, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of hv-rr on the host."""
    return network.place_hv_rr(virt_host, tmp_path_factory.mktemp("hv-rr"))


def test_network_vs_qemu(
    guest_factory: GuestFactory,
    hypervisor: Hypervisor,
    hv_rr: str,
    record_sample: RecordSample,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One guest for each hypervisor, measured in alternation; the other guest is idle meanwhile."""
    samples = pairs.PairedSamples()
    with contextlib.ExitStack() as stack:
        factories = stack.enter_context(pairs.guest_factories(guest_factory, hypervisor))
        targets = {
            name: stack.enter_context(network_target(factory, hv_rr))
            for name, factory in factories.items()
        }
        before = targets[pairs.SUBJECT].user_exits()
        for pair, name in pairs.alternating_pairs(targets, PAIRS):
            for metric, value in targets[name].measure().items():
                samples.add(metric, name, value)
                unit, better = UNITS[metric]
                record_sample(
                    f"net.{metric}", value, unit, better, hypervisor=name, boot=0, batch=pair
                )
        after = targets[pairs.SUBJECT].user_exits()
    with capsys.disabled():
        print()
        for metric, (unit, _) in UNITS.items():
            print("\n".join(samples.report_lines(metric, unit)))
        print(f"exits to user space of {pairs.SUBJECT}: {(after or 0) - (before or 0)}")
