"""Clones beside cold boots: seconds to SSH-ready in turn on one host, and memory of each process.

    pytest benchmarks/test_clone.py --hypervisor=kvm

Prints and records; nothing is asserted of the figures. The aim: a clone is ready within a tenth of
a cold boot's time, and a VMM process has at most 8 MiB of its own beyond guest memory.
"""

from __future__ import annotations

import json
import statistics

import pytest

from benchmarks.pairs import line
from harness.guest.factory import GuestFactory
from harness.guest.guest import Guest
from harness.hosts.base import Host
from harness.plugin.fixtures import RecordSample

ROUNDS = 5
CLONES = 4  # a round
# Private pages (KiB) of a process's mappings but those that are guest memory, by its size in KiB:
# the anonymous mapping or the snapshot's file that is as large.
PRIVATE = r"""
import json, re, sys
pid, memory = sys.argv[1], int(sys.argv[2])
total = size = 0
guest = False
for line in open(f"/proc/{pid}/smaps"):
    head = re.match(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+ *(.*)", line)
    if head:
        size = (int(head[2], 16) - int(head[1], 16)) // 1024
        guest = size >= memory or "/memory" in head[3]
    elif line.startswith("Private_") and not guest:
        total += int(line.split()[1])
print(json.dumps(total))
"""


def private_mib(host: Host, guest: Guest) -> float:
    """MiB that belong to a VMM process alone, guest memory aside."""
    argv = ["python3", "-I", "-S", "-c", PRIVATE, str(guest.facts["pid"])]
    return float(json.loads(host.run([*argv, str(guest.spec.memory << 10)]).stdout)) / 1024


def test_clone_beside_cold_boot(
    guest_factory: GuestFactory,
    virt_host: Host,
    record_sample: RecordSample,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Rounds of one cold boot and some clones; a boot and a clone before that are not counted."""
    origin = guest_factory("origin", memory=128)
    origin.ssh.cut()
    found: dict[str, list[float]] = {}
    ratios: list[float] = []

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    with origin.snapshot() as taken:
        origin.stop()
        guest_factory.clone(taken, "warm").stop()
        for number in range(ROUNDS):
            guest = guest_factory("cold", memory=128)
            boot = guest.timeline.seconds("ready")
            note("cold boot to ready", boot)
            note("private memory, booted", private_mib(virt_host, guest))
            record_sample("boot.ready", boot, "s", "lower", boot=number)
            guest.stop()
            for batch in range(CLONES):
                clone = guest_factory.clone(taken, "clone")
                seconds = {name: clone.timeline.seconds(name) for name in clone.timeline.stages}
                for name in ("restored", "adopted", "ready"):
                    note(f"clone to {name}", seconds[name])
                note("clone's page faults", clone.statistics().get("pf_taken", 0))
                note("private memory, clone", private_mib(virt_host, clone))
                ratios.append(seconds["ready"] / boot)
                record_sample(
                    "clone.ready", seconds["ready"], "s", "lower", boot=number, batch=batch
                )
                clone.stop()
    for name in ("booted", "clone"):
        middle = statistics.median(found[f"private memory, {name}"])
        record_sample("vmm.memory.private", middle, "MiB", "lower", {"guest": name})
    with capsys.disabled():
        print()
        for name, values in found.items():
            unit = "MiB" if name.startswith("private") else "s"
            print(line(name, values, "" if "faults" in name else unit))
        print(line("clone / cold boot", ratios, ""))
