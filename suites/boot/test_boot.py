"""Boot time of a guest, stage by stage.

Unit: seconds from the guest's creation to each stage. Control: the guest's own clock must agree on
the time from init to sshd. Each boot is a fresh guest.
"""

from __future__ import annotations

import pytest

from harness.guest.factory import GuestFactory
from harness.guest.guest import Guest
from harness.hosts.base import Host
from harness.plugin.fixtures import RecordSample
from harness.plugin.host_manager import NATIVE
from suites.boot import stages

pytestmark = pytest.mark.boots(short=6, full=12)
# Largest difference between the host's console time stamps and the guest's clock, in seconds, by
# whether the host is emulated. A console line takes time to reach the host.
CLOCK_TOLERANCE = {False: 0.02, True: 0.25}


def test_timeline(
    guest_factory: GuestFactory, virt_host: Host, record_sample: RecordSample, boot: int
) -> None:
    """Seconds from creation to kernel, init, sshd and ready: one sample per stage."""
    guest = guest_factory("boot")
    seconds = stages.record(record_sample, guest, "boot", boot)
    assert list(seconds)[-3:] == ["init", "sshd", "ready"]
    assert sorted(seconds.values()) == list(seconds.values())
    clock = guest.timeline.guest_clock
    by_guest_clock = (clock["sshd"] - clock["init"]) / 1e9
    tolerance = CLOCK_TOLERANCE[virt_host.emulated]
    assert seconds["sshd"] - seconds["init"] == pytest.approx(by_guest_clock, abs=tolerance)
    if boot == 0 and guest_factory.hypervisor.name != NATIVE:
        check_kernel(guest)
    guest.stop()


def check_kernel(guest: Guest) -> None:
    """The guest runs the image's kernel, which detects KVM by CPUID leaf 0x40000000."""
    release, log = guest.ssh.run("uname -r; dmesg").stdout.split("\n", 1)
    assert release == guest.spec.image.release
    assert "Hypervisor detected: KVM" in log
