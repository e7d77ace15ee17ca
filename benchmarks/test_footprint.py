"""Memory that a guest's VMM process has to itself, beyond the guest's own memory.

    pytest benchmarks/test_footprint.py

Measured while the guest runs: Private_Clean + Private_Dirty of /proc/PID/smaps, summed over all
mappings but those of guest memory, which are known by the advice that only they have (flag "hg",
MADV_HUGEPAGE). What a guest's process shares with the supervisor it was forked from is not counted.
Nothing is asserted of the figures.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from harness.guest.factory import GuestFactory
from harness.hosts.base import Host
from harness.hosts.local import LocalHost
from harness.hypervisors.agent_client import AgentClient
from harness.hypervisors.base import Hypervisor
from harness.plugin.fixtures import RecordSample
from tests.vmm.guests import Runner
from tests.vmm.payload import FOR_EVER, HELLO

GUESTS = 4
SETTLE = 3.0  # seconds; late modules are loaded, free pages were reported
_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ ", re.MULTILINE)


def private(smaps: str) -> tuple[float, float]:
    """MiB private to a process beyond guest memory, and MiB of guest memory mapped."""
    own = mapped = 0
    for mapping in _MAPPING.split(smaps)[1:]:
        fields = dict(re.findall(r"^(\w+): +(.*)$", mapping, re.MULTILINE))
        if "hg" in fields["VmFlags"].split():
            mapped += int(fields["Size"].split()[0])
        else:
            own += sum(int(fields[f"Private_{kind}"].split()[0]) for kind in ("Clean", "Dirty"))
    return own / 1024, mapped / 1024


def report(
    what: str, host: Host, pids: list[int], memory: int, capsys: pytest.CaptureFixture[str]
) -> list[float]:
    """Print the footprint of every process; MiB."""
    found = []
    for pid in pids:
        own, mapped = private(host.run(["cat", f"/proc/{pid}/smaps"]).stdout)
        assert mapped == memory, "guest memory was not recognized"
        found.append(own)
    with capsys.disabled():
        shown = ", ".join(f"{value:.2f}" for value in found)
        print(f"\n{what}: {shown} MiB private beyond {memory} MiB of guest memory")
    return found


def test_flat_payloads_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On this machine's KVM, whatever kind it is of."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("/dev/kvm is not there or not ours to open")
    host = LocalHost("footprint")
    supervisor = AgentClient(host)
    run = Runner(supervisor, tmp_path)
    try:
        guests = [run(HELLO + FOR_EVER, f"guest{number}") for number in range(GUESTS)]
        for guest in guests:
            guest.wait_line("hi")
        pids = [int(guest.machine.facts["pid"]) for guest in guests]
        report("payload guests", host, pids, 64, capsys)
    finally:
        run.close()
        supervisor.close()
        host.close()


def test_linux_guests(
    guest_factory: GuestFactory,
    hypervisor: Hypervisor,
    record_sample: RecordSample,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Guests with every device, one after the other: those before are forked from, too."""
    guests = [guest_factory(memory=256, vmm={"console": "both"}) for _ in range(2)]
    time.sleep(SETTLE)
    pids = [int(guest.facts["pid"]) for guest in guests]
    for value in report("Linux guests", hypervisor.host, pids, 256, capsys):
        record_sample("memory.vmm_private", value, "MiB", "lower")
    for guest in guests:
        guest.stop()
