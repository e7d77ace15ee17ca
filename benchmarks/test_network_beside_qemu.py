"""The network: our VMM and QEMU in turn, both by vhost-net on a bridge of the same host.

    pytest benchmarks/test_network_beside_qemu.py

One TCP stream in either direction (iperf3) and round trips of one byte (hv-rr) between host and
guest; the host's CPU time that each took, the vhost worker's included; the exits to user space.
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
from suites.cost import Cost
from suites.io import network

PAIRS = 12
SECONDS = 4
UNITS = {
    "stream.to_guest": ("Mbit/s", "higher"),
    "stream.from_guest": ("Mbit/s", "higher"),
    "trips": ("1/s", "higher"),
    "trips.p50": ("us", "lower"),
    "trips.p99": ("us", "lower"),
    "stream.to_guest.cpu": ("us/MiB", "lower"),
    "stream.from_guest.cpu": ("us/MiB", "lower"),
    "trips.cpu": ("us", "lower"),
}


class Side:
    """A guest in which both tools listen."""

    def __init__(self, guest: Guest, tool: str) -> None:
        self._guest = guest
        self._host = network.on_host(guest)
        self._tool = tool

    def measure(self) -> dict[str, float]:
        """All of it once, by metric."""
        found: dict[str, float] = {}
        for name, options in (("to_guest", ()), ("from_guest", ("--reverse",))):
            cost = Cost(self._guest)
            rate, amount = network.stream(self._host, self._guest, SECONDS, *options)
            found[f"stream.{name}"] = rate
            found[f"stream.{name}.cpu"] = cost.spent().counters["cgroup_cpu_usec"] / amount
        cost = Cost(self._guest)
        trips = network.trips(self._host, self._tool, self._guest, SECONDS)
        found["trips.cpu"] = cost.spent().counters["cgroup_cpu_usec"] / trips["count"]
        return {
            **found,
            "trips": trips["rate"],
            "trips.p50": trips["p50"],
            "trips.p99": trips["p99"],
        }

    def user_exits(self) -> int | None:
        """Exits that reached the VMM; None where it does not count them."""
        return self._guest.statistics().get("user_exits")


@contextlib.contextmanager
def side(factory: GuestFactory, tool: str) -> Iterator[Side]:
    """A guest whose servers wait, warmed up."""
    guest = factory("network")
    with network.serving(guest):
        made = Side(guest, tool)
        made.measure()
        yield made
    guest.stop()


@pytest.fixture(scope="module")
def tool(virt_host: Host, tmp_path_factory: pytest.TempPathFactory) -> str:
    """hv-rr, on the host."""
    return network.place_tool(virt_host, tmp_path_factory.mktemp("tool"))


def test_network_beside_qemu(
    guest_factory: GuestFactory,
    hypervisor: Hypervisor,
    tool: str,
    record_sample: RecordSample,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One guest a side, measured in turn; both stand there all the time, one of them idle."""
    found = pairs.Found()
    with contextlib.ExitStack() as stack:
        factories = stack.enter_context(pairs.sides(guest_factory, hypervisor))
        both = {name: stack.enter_context(side(one, tool)) for name, one in factories.items()}
        before = both[pairs.OURS].user_exits()
        for pair, name in pairs.in_turn(both, PAIRS):
            for metric, value in both[name].measure().items():
                found.add(metric, name, value)
                unit, better = UNITS[metric]
                record_sample(
                    f"net.{metric}", value, unit, better, hypervisor=name, boot=0, batch=pair
                )
        exits = both[pairs.OURS].user_exits()
    with capsys.disabled():
        print()
        for metric, (unit, _) in UNITS.items():
            print("\n".join(found.lines(metric, unit)))
        print(f"exits to user space of {pairs.OURS} meanwhile: {(exits or 0) - (before or 0)}")
