"""The network: our VMM and QEMU in turn, both by vhost-net on a bridge of the same host.

    pytest benchmarks/test_network_beside_qemu.py

One TCP stream in either direction (iperf3) and round trips of one byte (hv-rr) between host and
guest; the host's CPU time that each took, the vhost worker's included; the exits to user space.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import pairs
from harness.errors import WorkloadError
from harness.fixtures import RecordSample
from harness.guest.factory import GuestFactory
from harness.guest.guest import Guest
from harness.hosts.base import Host, Process
from harness.hypervisors.base import Hypervisor
from images.build import compile_c

PAIRS = 12
SECONDS = 4
PORT = 5201
TIMEOUT = 60.0
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
    """A guest and its host, with a server of each tool in the guest."""

    def __init__(self, guest: Guest, factory: GuestFactory, tool: str) -> None:
        self._guest = guest
        self._hypervisor = pairs.of(factory)
        self._tool = tool

    def _on_host(self, *argv: str) -> str:
        within = self._hypervisor.in_network(argv)
        return self._hypervisor.host.run(within, timeout=TIMEOUT).stdout

    def _cpu_us(self) -> int:
        """Of all that the guest costs: its process and the vhost workers are in its cgroup."""
        stat = self._hypervisor.host.run(["cat", f"{self._guest.facts['cgroup']}/cpu.stat"]).stdout
        return int(stat.split()[1])

    def stream(self, *options: str) -> dict[str, float]:
        """Mbit/s that arrived, and CPU time for each MiB."""
        client = ["iperf3", "--client", str(self._guest.address), "--port", str(PORT)]
        before = self._cpu_us()
        told = self._on_host(*client, "--time", str(SECONDS), "--json", *options)
        spent = self._cpu_us() - before
        try:
            arrived = json.loads(told)["end"]["sum_received"]
            return {
                "": arrived["bits_per_second"] / 1e6,
                ".cpu": spent / (arrived["bytes"] / (1 << 20)),
            }
        except (ValueError, KeyError, ZeroDivisionError) as error:
            raise WorkloadError(f"iperf3 measured nothing: {told[-200:]!r}", stage="run") from error

    def trips(self) -> dict[str, float]:
        """Round trips a second, their length, and CPU time for each."""
        before = self._cpu_us()
        told = self._on_host(self._tool, str(self._guest.address), str(PORT + 1), str(SECONDS))
        spent = self._cpu_us() - before
        words = told.split()
        count, seconds, middle, last = map(float, words[1::2])
        return {"": count / seconds, ".p50": middle, ".p99": last, ".cpu": spent / count}

    def measure(self) -> dict[str, float]:
        """All of it once, by metric."""
        parts = {
            "stream.to_guest": self.stream(),
            "stream.from_guest": self.stream("--reverse"),
            "trips": self.trips(),
        }
        return {name + more: value for name, part in parts.items() for more, value in part.items()}

    def user_exits(self) -> int | None:
        """Exits that reached the VMM; None where it does not count them."""
        return self._guest.statistics().get("user_exits")


def listening(guest: Guest, *argv: str) -> Process:
    """A server in the guest, once it says so."""
    server = guest.ssh.popen(argv)
    while line := server.readline():
        if b"listening" in line.lower():
            return server
    raise WorkloadError(f"{argv[0]} does not listen: {server.stderr_tail()}", guest=guest.name)


@contextlib.contextmanager
def side(factory: GuestFactory, tool: str) -> Iterator[Side]:
    """A guest whose servers wait, warmed up."""
    guest = factory("network")
    servers = [
        listening(guest, "iperf3", "--server", "--port", str(PORT), "--forceflush"),
        listening(guest, "hv-rr", str(PORT + 1)),
    ]
    made = Side(guest, factory, tool)
    made.measure()
    yield made
    for server in servers:
        server.kill()
    guest.stop()


@pytest.fixture(scope="module")
def tool(host: Host, tmp_path_factory: pytest.TempPathFactory) -> str:
    """hv-rr, on the host."""
    folder = tmp_path_factory.mktemp("tool")
    program = Path(folder, "hv-rr")
    program.write_bytes(compile_c(("-static",), ("tools/hv-rr.c",), folder / "scratch"))
    program.chmod(0o755)
    return host.place(program)


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
