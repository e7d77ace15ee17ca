"""Boot to init: our VMM and QEMU's microvm in turn, same host, kernel, initramfs, command line.

    pytest benchmarks/test_boot_beside_qemu.py

Prints each side's seconds and the ratio of every pair of neighbours; nothing is asserted of them.
"""

from __future__ import annotations

import dataclasses
import statistics

import pytest

from harness.fixtures import RecordSample
from harness.guest.factory import GuestFactory
from harness.hypervisors.base import Hypervisor
from harness.hypervisors.kvm import KvmHypervisor
from harness.hypervisors.qemu import QemuHypervisor

PAIRS = 10
STAGES = ("init", "ready")


def boot(factory: GuestFactory, label: str) -> dict[str, float]:
    """Seconds from create to each stage of one guest."""
    guest = factory(label)
    seconds = {stage: guest.timeline.seconds(stage) for stage in STAGES}
    guest.stop()
    return seconds


def line(name: str, values: list[float], unit: str) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{name:28} median {middle:.3f}{unit}  min {low:.3f}{unit}  max {high:.3f}{unit}"


def test_boot_beside_qemu(
    guest_factory: GuestFactory,
    hypervisor: Hypervisor,
    record_sample: RecordSample,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Pairs of boots, kvm first and qemu first by turns; one warm-up each is not counted."""
    kinds = (KvmHypervisor, QemuHypervisor)
    sides = {kind.name: kind(hypervisor.host, lambda text: None) for kind in kinds}
    factories = {
        name: dataclasses.replace(
            guest_factory, hypervisor=side, prefix=f"{guest_factory.prefix}-{name}"
        )
        for name, side in sides.items()
    }
    found: dict[str, dict[str, list[float]]] = {
        name: {stage: [] for stage in STAGES} for name in sides
    }
    try:
        for name, factory in factories.items():
            boot(factory, f"warm-{name}")
        for pair in range(PAIRS):
            order = list(sides) if pair % 2 == 0 else list(sides)[::-1]
            for name in order:
                for stage, value in boot(factories[name], f"pair-{pair}").items():
                    found[name][stage].append(value)
                    record_sample(f"boot.{stage}", value, "s", "lower", hypervisor=name, boot=pair)
    finally:
        for side in sides.values():
            side.close()
    with capsys.disabled():
        print()
        for stage in STAGES:
            ours, theirs = found["kvm"][stage], found["qemu"][stage]
            print(line(f"kvm boot to {stage}", ours, " s"))
            print(line(f"qemu microvm boot to {stage}", theirs, " s"))
            ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
            print(line("kvm / qemu, pair by pair", ratios, ""))
