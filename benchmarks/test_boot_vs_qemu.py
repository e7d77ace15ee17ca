"""Boot to init: our VMM and QEMU's microvm in turn, same host, kernel, initramfs, command line.

    pytest benchmarks/test_boot_vs_qemu.py

Prints each side's seconds and the ratio of every pair of neighbours; nothing is asserted of them.
"""

from __future__ import annotations

import pytest

from benchmarks import pairs
from harness.guest.factory import GuestFactory
from harness.hypervisors.base import Hypervisor
from harness.plugin.fixtures import RecordSample

PAIRS = 10
STAGES = ("init", "ready")


def boot(factory: GuestFactory, label: str) -> dict[str, float]:
    """Seconds from create to each stage of one guest."""
    guest = factory(label)
    seconds = {stage: guest.timeline.seconds(stage) for stage in STAGES}
    guest.stop()
    return seconds


def test_boot_vs_qemu(
    guest_factory: GuestFactory,
    hypervisor: Hypervisor,
    record_sample: RecordSample,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Pairs of boots; one warm-up each is not counted."""
    found = pairs.Found()
    with pairs.sides(guest_factory, hypervisor) as factories:
        for name, factory in factories.items():
            boot(factory, f"warm-{name}")
        for pair, name in pairs.in_turn(factories, PAIRS):
            for stage, value in boot(factories[name], f"pair-{pair}").items():
                found.add(f"boot.{stage}", name, value)
                record_sample(f"boot.{stage}", value, "s", "lower", hypervisor=name, boot=pair)
    with capsys.disabled():
        print()
        for stage in STAGES:
            print("\n".join(found.lines(f"boot.{stage}", "s")))
