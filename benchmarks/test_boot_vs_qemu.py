"""Boot time of the built-in VMM and of QEMU's microvm in alternation, in seconds.

    pytest benchmarks/test_boot_vs_qemu.py

Both boot the same kernel, initramfs and command line on the same host. The benchmark prints the
seconds of each and the ratio within each pair, and asserts none of them.
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
    """Boot a guest; seconds from its creation to each stage."""
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
    """Pairs of boots, after a discarded warm-up boot of each."""
    samples = pairs.PairedSamples()
    with pairs.guest_factories(guest_factory, hypervisor) as factories:
        for name, factory in factories.items():
            boot(factory, f"warm-{name}")
        for pair, name in pairs.alternating_pairs(factories, PAIRS):
            for stage, value in boot(factories[name], f"pair-{pair}").items():
                samples.add(f"boot.{stage}", name, value)
                record_sample(f"boot.{stage}", value, "s", "lower", hypervisor=name, boot=pair)
    with capsys.disabled():
        print()
        for stage in STAGES:
            print("\n".join(samples.report_lines(f"boot.{stage}", "s")))
