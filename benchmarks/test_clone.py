"""Clones and cold boots in alternation on one host: seconds to ready, and memory of each VMM.

    pytest benchmarks/test_clone.py --hypervisor=kvm

Aims: a clone is ready within a tenth of a cold boot's time, and a VMM process has at most 8 MiB
beyond guest memory. The benchmark prints and records the figures and asserts none of them.
"""

from __future__ import annotations

import statistics

import pytest

from benchmarks.pairs import format_line
from benchmarks.private_memory import private_mib
from harness.guest.factory import GuestFactory
from harness.guest.guest import Guest
from harness.hosts.base import Host
from harness.plugin.fixtures import RecordSample

ROUNDS = 5
CLONES = 4  # per round
MEMORY = 128  # MiB


def test_clone_vs_cold_boot(
    guest_factory: GuestFactory,
    virt_host: Host,
    record_sample: RecordSample,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Rounds of one cold boot and CLONES clones, after a discarded boot and clone."""
    origin = guest_factory("origin", memory=MEMORY)
    origin.ssh.disconnect()
    values: dict[str, list[float]] = {}
    ratios: list[float] = []

    def add(name: str, value: float) -> None:
        values.setdefault(name, []).append(value)

    def add_private_memory(name: str, guest: Guest) -> None:
        add(f"private memory, {name}", private_mib(virt_host, int(guest.facts["pid"]), MEMORY))

    with origin.snapshot() as snapshot:
        origin.stop()
        guest_factory.clone(snapshot, "warm").stop()
        for number in range(ROUNDS):
            guest = guest_factory("cold", memory=MEMORY)
            boot = guest.timeline.seconds("ready")
            add("cold boot to ready", boot)
            add_private_memory("booted", guest)
            record_sample("boot.ready", boot, "s", "lower", boot=number)
            guest.stop()
            for batch in range(CLONES):
                clone = guest_factory.clone(snapshot, "clone")
                seconds = {name: clone.timeline.seconds(name) for name in clone.timeline.stages}
                for name in ("restored", "adopted", "ready"):
                    add(f"clone to {name}", seconds[name])
                add("clone's page faults", clone.statistics().get("pf_taken", 0))
                add_private_memory("clone", clone)
                ratios.append(seconds["ready"] / boot)
                record_sample(
                    "clone.ready", seconds["ready"], "s", "lower", boot=number, batch=batch
                )
                clone.stop()
    for name in ("booted", "clone"):
        median = statistics.median(values[f"private memory, {name}"])
        record_sample("vmm.memory.private", median, "MiB", "lower", {"guest": name})
    with capsys.disabled():
        print()
        for name, samples in values.items():
            unit = "MiB" if name.startswith("private") else "" if "faults" in name else "s"
            print(format_line(name, samples, unit))
        print(format_line("clone / cold boot", ratios, ""))
