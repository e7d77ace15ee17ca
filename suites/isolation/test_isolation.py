"""Guests that harm their hypervisor, beside one that is measured.

The hostile guest ends within a second, with a name for what it did; what never ends by itself goes
on. Meanwhile the neighbour's SSH and disk go on, and how much slower they became is recorded.
"""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import pytest

from harness.guest.factory import GuestFactory
from harness.guest.guest import Guest
from harness.hosts.base import Host
from harness.hypervisors.base import Disk, Hypervisor
from harness.plugin.fixtures import RecordSample
from harness.results.schema import Parameter
from harness.ssh.process import Process
from suites.cpus import can_confine, confine

pytestmark = pytest.mark.only_hypervisors("kvm")
WITHIN = 1.0  # seconds from the guest's last line to the end: what this hypervisor promises
SLACK = 3.0  # more where the host itself is a guest of a busy machine
BEFORE = 1.0  # seconds that the neighbour is measured alone
MEMORY = 128  # MiB
EXITS = 100  # a second: a guest at work makes none, and an emulated host cannot serve many
SERIAL = "spare"
DEVICE = f"/dev/disk/by-serial/{SERIAL}"
# for each block that is asked for by a line, a line when it was read past all caches
READER = (
    f"while read block; do dd if={DEVICE} of=/dev/null bs=4k count=1 skip=$block iflag=direct "
    "2>/dev/null || exit 1; echo $block; done"
)
BLOCKS = 256  # of the spare disk, 4 KiB each


@dataclass(frozen=True)
class Case:
    """What a guest does, and the end that it comes to. detail: what is told of it, in the words of
    whoever may serve the device. made: what the guest is made of."""

    name: str
    command: str
    reason: str
    detail: tuple[str, ...] = ("",)
    made: dict[str, Any] = field(default_factory=dict)


def ring(name: str, *detail: str) -> Case:
    """A malformed ring of a device to spare."""
    return Case(name, f"hv-hostile {name} {DEVICE}", "guest-fault", detail)


# The transmit queue of the device that this very session comes by; the kernel serves it.
VSOCK = (
    "for device in /sys/bus/pci/devices/*; do [ $(cat $device/device) != 0x1053 ] || "
    "exec setsid hv-hostile wild-address $device 1; done"
)
SAY = 'echo "hv-hostile: {0}" >/dev/console; '
CASES = (
    Case("panic", SAY.format("panic") + "hv-end panic", "panic", ("sysrq triggered crash",)),
    Case("triple-fault", SAY.format("triple-fault") + "hv-end triple-fault", "triple-fault"),
    ring("bad-index", "descriptor index 200 is outside", "Guest says index 200 is available"),
    ring("loop", "loop", "Looped descriptor"),
    ring("wild-address", "outside guest memory", "invalid address for buffers"),
    ring("wild-ring", "outside guest memory"),
    ring("queue-size", "virtqueue size 7"),
    ring("queue-index", "queue 200"),
    ring("indirect", "indirect"),
    ring("take-back", "without a reset"),
    Case("vsock", VSOCK, "guest-fault", ("vhost-vsock",)),
    Case("exit-storm", "hv-hostile exit-storm", "exit-storm", (f"{EXITS} are allowed",)),
    # it takes twice what it may have of the host
    Case("memory", "hv-hostile memory", "out-of-memory", made={"memory": 256, "memory_limit": 144}),
)
# These do not end: the first has the right to all of a CPU, be it its neighbour's; the second is
# held up by its own port.
ENDLESS = {"spin": "while :; do :; done", "flood": "hv-hostile flood"}


class Neighbour:
    """A guest whose round trips are timed: a line by SSH, and a 4 KiB read from its disk."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self._processes = {"ssh": guest.ssh.popen("cat"), "disk": guest.ssh.popen(READER)}
        self._count = 0

    def _trip(self, process: Process) -> float:
        """Seconds. Fails when something else comes back."""
        self._count += 1
        line = b"%d\n" % (self._count % BLOCKS)
        start = time.monotonic()
        process.write(line)
        assert process.readline() == line, "the neighbour does not answer"
        return time.monotonic() - start

    def measure(self, enough: Callable[[], bool]) -> dict[str, list[float]]:
        """Trips of each kind in turn until it is enough; at least one of each."""
        taken: dict[str, list[float]] = {name: [] for name in self._processes}
        while True:
            for name, process in self._processes.items():
                taken[name].append(self._trip(process))
            if enough():
                return taken

    def alone(self) -> dict[str, list[float]]:
        end = time.monotonic() + BEFORE
        return self.measure(lambda: time.monotonic() > end)

    @contextlib.contextmanager
    def beside(self, keep: Callable[[dict[str, list[float]]], None]) -> Iterator[None]:
        """Trips while the block goes on, to be kept, and of each kind one after it."""
        over = threading.Event()
        with ThreadPoolExecutor() as pool:
            trips = pool.submit(self.measure, over.is_set)
            try:
                yield
            finally:
                over.set()
            keep(trips.result(60.0))
        self.measure(lambda: True)
        self.guest.check_alive()


@pytest.fixture(scope="module", autouse=True)
def ours(hypervisor: Hypervisor) -> None:
    if hypervisor.name != "kvm":
        pytest.skip("only the built-in VMM ends guests for these reasons")


@pytest.fixture(scope="module")
def spare(virt_host: Host) -> Iterator[Disk]:
    """A small disk that nobody needs."""
    path = str(PurePosixPath(virt_host.scratch()) / "isolation-disk")
    size = ["bs=4k", f"count={BLOCKS}", "status=none"]
    virt_host.run(["dd", "if=/dev/urandom", f"of={path}", *size])
    yield Disk(path, SERIAL)
    virt_host.run(["rm", "-f", path])


@pytest.fixture(scope="module")
def neighbour(guest_factory: GuestFactory, spare: Disk) -> Iterator[Neighbour]:
    guest = guest_factory("neighbour", memory=MEMORY, disks=[spare])
    yield Neighbour(guest)
    guest.stop()


def bound(guest_factory: GuestFactory) -> float:
    """Seconds that an end may take."""
    return WITHIN + SLACK * guest_factory.hypervisor.host.emulated


def record(
    keep: RecordSample,
    about: dict[str, Parameter],
    alone: dict[str, list[float]],
    beside: dict[str, list[float]],
) -> None:
    """Every round trip, and by how much the median became slower."""
    for kind, before in alone.items():
        for phase, trips in (("alone", before), ("beside", beside[kind])):
            parameters = {**about, "phase": phase}
            for number, seconds in enumerate(trips):
                name = f"isolation.{kind}.round_trip"
                keep(name, seconds * 1e3, "ms", "lower", parameters, batch=number)
        loss = statistics.median(beside[kind]) / statistics.median(before) - 1
        keep(f"isolation.{kind}.loss", 100 * loss, "%", "lower", about)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_ends_and_its_neighbour_goes_on(
    guest_factory: GuestFactory,
    neighbour: Neighbour,
    spare: Disk,
    record_sample: RecordSample,
    case: Case,
) -> None:
    hostile = guest_factory(case.name, **{"memory": MEMORY, "disks": [spare], **case.made})
    if case.reason == "exit-storm":
        hostile.limit_exits(EXITS)
    alone = neighbour.alone()

    keep = partial(record, record_sample, {"case": case.name}, alone)
    with neighbour.beside(keep), hostile.expect_end(case.reason):
        hostile.ssh.popen(case.command)  # it may take its own SSH away
    assert hostile.end is not None
    assert any(detail in hostile.end.detail for detail in case.detail)
    assert hostile.console.time_of("hv-hostile: ")
    # a panic's trace is still the guest's own work
    seconds = (hostile.end.time_ns - hostile.console.time_of("")) / 1e9
    record_sample("isolation.end", seconds, "s", "lower", {"case": case.name})
    hostile.stop()
    assert 0 <= seconds < bound(guest_factory)


@pytest.mark.parametrize("name", ENDLESS)
def test_what_does_not_end_harms_nobody_else(
    guest_factory: GuestFactory,
    neighbour: Neighbour,
    virt_host: Host,
    record_sample: RecordSample,
    name: str,
) -> None:
    """The two share one CPU of the host's, where it can be told so."""
    hostile = guest_factory(name, memory=MEMORY)
    about: dict[str, Parameter] = {"case": name}
    with contextlib.ExitStack() as shared:
        if all(map(can_confine, (neighbour.guest, hostile))):
            about["cpus"] = 1
            shared.callback(confine, neighbour.guest, virt_host.facts.cpu_numbers)
            for one in (neighbour.guest, hostile):
                confine(one, virt_host.facts.cpu_numbers[-1:])
        alone = neighbour.alone()
        hostile.ssh.popen(ENDLESS[name])
        with neighbour.beside(partial(record, record_sample, about, alone)):
            time.sleep(2 * BEFORE)
    hostile.check_alive()
    hostile.stop()


def test_a_vmm_that_is_killed(
    guest_factory: GuestFactory, neighbour: Neighbour, virt_host: Host, record_sample: RecordSample
) -> None:
    hostile = guest_factory("killed", memory=MEMORY)
    alone = neighbour.alone()
    killer = "import os, sys, time; print(time.monotonic_ns()); os.kill(int(sys.argv[1]), 9)"
    keep = partial(record, record_sample, {"case": "killed"}, alone)
    with neighbour.beside(keep), hostile.expect_end("killed"):
        argv = ["python3", "-I", "-S", "-c", killer, str(hostile.facts["pid"])]
        killed = int(virt_host.run(argv).stdout)
    assert hostile.end is not None
    seconds = (hostile.end.time_ns - killed) / 1e9
    record_sample("isolation.end", seconds, "s", "lower", {"case": "killed"})
    hostile.stop()
    assert 0 <= seconds < bound(guest_factory)
