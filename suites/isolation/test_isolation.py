"""Isolation: hostile guests attack their hypervisor while a victim guest is measured.

An attack must end the hostile guest within END_LIMIT, with a reason that names it. An endless
attack must leave both guests alive. Units: ms of the victim's SSH and disk round trips, their
slowdown in %, and seconds from the attack to the guest's end. Control: the victim's round trips
before the attack. Each case runs once in a fresh hostile guest; all cases share the victim.
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
END_LIMIT = 1.0  # seconds from the guest's last console line to its end
EMULATED_SLACK = 3.0  # seconds more on an emulated host, which shares a busy machine
CONTROL_SECONDS = 1.0  # of round trips before each attack
MEMORY = 128  # MiB
EXIT_LIMIT = 100  # a second; an idle guest causes none, and an emulated host handles few
SERIAL = "spare"
DEVICE = f"/dev/disk/by-serial/{SERIAL}"
# Reads a block number a line; echoes it when the block is read, past all caches.
READER = (
    f"while read block; do dd if={DEVICE} of=/dev/null bs=4k count=1 skip=$block iflag=direct "
    "2>/dev/null || exit 1; echo $block; done"
)
BLOCKS = 256  # of the spare disk, 4 KiB each
Latencies = dict[str, list[float]]  # seconds of each round trip, by "ssh" and "disk"


@dataclass(frozen=True)
class Attack:
    """An attack that ends the guest.

    command: run in the guest. reason: of the guest's end. details: one of these must be in the
    end's detail; the words depend on who serves the device. guest_options: for the guest factory.
    """

    name: str
    command: str
    reason: str
    details: tuple[str, ...] = ("",)
    guest_options: dict[str, Any] = field(default_factory=dict)


def ring_attack(name: str, *details: str) -> Attack:
    """An attack by a malformed ring of the spare disk."""
    return Attack(name, f"hv-hostile {name} {DEVICE}", "guest-fault", details)


# Attacks the transmit queue of the vsock device, which vhost serves and this SSH session uses.
VSOCK = (
    "for device in /sys/bus/pci/devices/*; do [ $(cat $device/device) != 0x1053 ] || "
    "exec setsid hv-hostile bad-address $device 1; done"
)
PRINT_NAME = 'echo "hv-hostile: {0}" >/dev/console; '
ATTACKS = (
    Attack(
        "panic", PRINT_NAME.format("panic") + "hv-end panic", "panic", ("sysrq triggered crash",)
    ),
    Attack(
        "triple-fault", PRINT_NAME.format("triple-fault") + "hv-end triple-fault", "triple-fault"
    ),
    ring_attack(
        "bad-index", "descriptor index 200 is outside", "Guest says index 200 is available"
    ),
    ring_attack("loop", "loop", "Looped descriptor"),
    ring_attack("bad-address", "outside guest memory", "invalid address for buffers"),
    ring_attack("bad-ring-address", "outside guest memory"),
    ring_attack("queue-size", "virtqueue size 7"),
    ring_attack("queue-index", "queue 200"),
    ring_attack("indirect", "indirect"),
    ring_attack("clear-driver-ok", "without a reset"),
    Attack("vsock", VSOCK, "guest-fault", ("vhost-vsock",)),
    Attack("exit-storm", "hv-hostile exit-storm", "exit-storm", (f"{EXIT_LIMIT} are allowed",)),
    # The guest has more memory than its cgroup may use.
    Attack(
        "memory",
        "hv-hostile memory",
        "out-of-memory",
        guest_options={"memory": 256, "memory_limit": 144},
    ),
)
# Attacks without an end. A busy guest may use its CPU fully; its own serial port slows a flood.
ENDLESS_ATTACKS = {"spin": "while :; do :; done", "flood": "hv-hostile flood"}


class LatencyProbe:
    """Times round trips of a guest: an echoed line by SSH, and a 4 KiB read from its disk."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self._processes = {"ssh": guest.ssh.popen("cat"), "disk": guest.ssh.popen(READER)}
        self._count = 0

    def _round_trip(self, process: Process) -> float:
        """Seconds of one round trip."""
        self._count += 1
        line = b"%d\n" % (self._count % BLOCKS)
        start = time.monotonic()
        process.write(line)
        assert process.readline() == line, "the victim does not reply"
        return time.monotonic() - start

    def measure_until(self, stop: Callable[[], bool]) -> Latencies:
        """Alternate round trips of each kind until `stop` returns true; at least one of each."""
        latencies: Latencies = {name: [] for name in self._processes}
        while True:
            for name, process in self._processes.items():
                latencies[name].append(self._round_trip(process))
            if stop():
                return latencies

    def measure_control(self) -> Latencies:
        """Round trips without an attack."""
        end = time.monotonic() + CONTROL_SECONDS
        return self.measure_until(lambda: time.monotonic() > end)

    @contextlib.contextmanager
    def measuring(self, on_result: Callable[[Latencies], None]) -> Iterator[None]:
        """Measure round trips during the block, and pass them to `on_result`.

        Afterwards one more round trip of each kind must succeed.
        """
        done = threading.Event()
        with ThreadPoolExecutor() as pool:
            latencies = pool.submit(self.measure_until, done.is_set)
            try:
                yield
            finally:
                done.set()
            on_result(latencies.result(60.0))
        self.measure_until(lambda: True)
        self.guest.check_alive()


@pytest.fixture(scope="module", autouse=True)
def built_in_vmm(hypervisor: Hypervisor) -> None:
    if hypervisor.name != "kvm":
        pytest.skip("only the built-in VMM ends guests for these reasons")


@pytest.fixture(scope="module")
def spare_disk(virt_host: Host) -> Iterator[Disk]:
    """A small disk that attacks may break."""
    path = str(PurePosixPath(virt_host.scratch()) / "isolation-disk")
    size = ["bs=4k", f"count={BLOCKS}", "status=none"]
    virt_host.run(["dd", "if=/dev/urandom", f"of={path}", *size])
    yield Disk(path, SERIAL)
    virt_host.run(["rm", "-f", path])


@pytest.fixture(scope="module")
def victim(guest_factory: GuestFactory, spare_disk: Disk) -> Iterator[LatencyProbe]:
    guest = guest_factory("victim", memory=MEMORY, disks=[spare_disk])
    yield LatencyProbe(guest)
    guest.stop()


def end_limit(guest_factory: GuestFactory) -> float:
    """Seconds that an end may take on this host."""
    return END_LIMIT + EMULATED_SLACK * guest_factory.hypervisor.host.emulated


def record_latencies(
    record_sample: RecordSample,
    parameters: dict[str, Parameter],
    control: Latencies,
    attacked: Latencies,
) -> None:
    """Record each round trip, and the slowdown of the median during the attack."""
    for kind in control:
        for phase, latencies in (("control", control[kind]), ("attack", attacked[kind])):
            for number, seconds in enumerate(latencies):
                record_sample(
                    f"isolation.{kind}.round_trip",
                    seconds * 1e3,
                    "ms",
                    "lower",
                    {**parameters, "phase": phase},
                    batch=number,
                )
        slowdown = statistics.median(attacked[kind]) / statistics.median(control[kind]) - 1
        metric = f"isolation.{kind}.slowdown"
        record_sample(metric, 100 * slowdown, "%", "lower", parameters)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack_ends_the_hostile_guest_only(
    guest_factory: GuestFactory,
    victim: LatencyProbe,
    spare_disk: Disk,
    record_sample: RecordSample,
    attack: Attack,
) -> None:
    options = {"memory": MEMORY, "disks": [spare_disk], **attack.guest_options}
    hostile = guest_factory(attack.name, **options)
    if attack.reason == "exit-storm":
        hostile.limit_exits(EXIT_LIMIT)
    control = victim.measure_control()

    parameters: dict[str, Parameter] = {"case": attack.name}
    on_result = partial(record_latencies, record_sample, parameters, control)
    with victim.measuring(on_result), hostile.expect_end(attack.reason):
        hostile.ssh.popen(attack.command)  # the attack may break its own SSH connection
    assert hostile.end is not None
    assert any(detail in hostile.end.detail for detail in attack.details)
    assert hostile.console.time_of("hv-hostile: ")
    # The last line, not the attack's: a panic prints its trace first.
    seconds = (hostile.end.time_ns - hostile.console.time_of("")) / 1e9
    record_sample("isolation.end_latency", seconds, "s", "lower", parameters)
    hostile.stop()
    assert 0 <= seconds < end_limit(guest_factory)


@pytest.mark.parametrize("name", ENDLESS_ATTACKS)
def test_endless_attack_leaves_the_victim_alive(
    guest_factory: GuestFactory,
    victim: LatencyProbe,
    virt_host: Host,
    record_sample: RecordSample,
    name: str,
) -> None:
    """Both guests share one host CPU, if the host can confine guests."""
    hostile = guest_factory(name, memory=MEMORY)
    parameters: dict[str, Parameter] = {"case": name}
    with contextlib.ExitStack() as cleanup:
        if all(map(can_confine, (victim.guest, hostile))):
            parameters["cpus"] = 1
            cleanup.callback(confine, victim.guest, virt_host.facts.cpu_numbers)
            for one in (victim.guest, hostile):
                confine(one, virt_host.facts.cpu_numbers[-1:])
        control = victim.measure_control()
        hostile.ssh.popen(ENDLESS_ATTACKS[name])
        on_result = partial(record_latencies, record_sample, parameters, control)
        with victim.measuring(on_result):
            time.sleep(2 * CONTROL_SECONDS)
    hostile.check_alive()
    hostile.stop()


def test_killed_vmm_leaves_the_victim_alive(
    guest_factory: GuestFactory,
    victim: LatencyProbe,
    virt_host: Host,
    record_sample: RecordSample,
) -> None:
    hostile = guest_factory("killed", memory=MEMORY)
    control = victim.measure_control()
    kill = "import os, sys, time; print(time.monotonic_ns()); os.kill(int(sys.argv[1]), 9)"
    parameters: dict[str, Parameter] = {"case": "killed"}
    on_result = partial(record_latencies, record_sample, parameters, control)
    with victim.measuring(on_result), hostile.expect_end("killed"):
        argv = ["python3", "-I", "-S", "-c", kill, str(hostile.facts["pid"])]
        killed_ns = int(virt_host.run(argv).stdout)
    assert hostile.end is not None
    seconds = (hostile.end.time_ns - killed_ns) / 1e9
    record_sample("isolation.end_latency", seconds, "s", "lower", parameters)
    hostile.stop()
    assert 0 <= seconds < end_limit(guest_factory)
