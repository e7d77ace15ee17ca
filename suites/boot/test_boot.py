"""How long a guest takes to come up, stage by stage, and that its own clock agrees."""

from __future__ import annotations

import pytest

from harness.guest.factory import GuestFactory
from harness.guest.guest import Guest
from harness.hosts.base import Host
from harness.plugin.fixtures import RecordSample
from harness.plugin.session import BASELINE
from suites.boot import stages

BOOTS = {"short": 6, "full": 12}
# Of the same span by two clocks: the host's console time stamps against the guest's own.
# Seconds: the console's path to the harness's stamp, by whether the host is emulated.
CLOCKS_AGREE_WITHIN = {False: 0.02, True: 0.25}


def test_timeline(
    guest_factory: GuestFactory, virt_host: Host, record_sample: RecordSample, boot: int
) -> None:
    """Create to kernel, init, sshd and ready: one sample a stage and boot."""
    guest = guest_factory("boot")
    seconds = stages.record(record_sample, guest, "boot", boot)
    assert list(seconds)[-3:] == ["init", "sshd", "ready"]
    assert sorted(seconds.values()) == list(seconds.values())
    # a second way to the same figure: init to sshd by the guest's own boot clock
    clock = guest.timeline.guest_clock
    inside = (clock["sshd"] - clock["init"]) / 1e9
    within = CLOCKS_AGREE_WITHIN[virt_host.emulated]
    assert seconds["sshd"] - seconds["init"] == pytest.approx(inside, abs=within)
    if boot == 0 and guest_factory.hypervisor.name != BASELINE:
        runs_on_kvm(guest)
    guest.stop()


def runs_on_kvm(guest: Guest) -> None:
    """The guest is Debian's stock kernel, and knows that it runs on KVM."""
    release, said = guest.ssh.run("uname -r; dmesg").stdout.split("\n", 1)
    assert release == guest.spec.image.release
    # the kernel's own reading of CPUID leaf 0x40000000
    assert "Hypervisor detected: KVM" in said
