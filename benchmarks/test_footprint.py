"""Memory that a guest's VMM process has to itself, without the guest's own memory, in MiB.

    pytest benchmarks/test_footprint.py

Measured while the guest runs. The benchmark prints the figures and asserts none of them.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from benchmarks.private_memory import private_mib
from harness.guest.factory import GuestFactory
from harness.hosts.base import Host
from harness.hosts.local import LocalHost
from harness.hypervisors.agent_client import AgentClient
from harness.hypervisors.base import Hypervisor
from harness.plugin.fixtures import RecordSample
from tests.vmm.guests import Runner
from tests.vmm.payload import FOR_EVER, HELLO

GUESTS = 4
SETTLE_SECONDS = 3.0  # the guest loads its last modules and reports its free pages


def report(
    label: str, host: Host, pids: list[int], memory: int, capsys: pytest.CaptureFixture[str]
) -> list[float]:
    """Print and return the private MiB of each process."""
    footprints = [private_mib(host, pid, memory) for pid in pids]
    with capsys.disabled():
        values = ", ".join(f"{value:.2f}" for value in footprints)
        print(f"\n{label}: {values} MiB private beyond {memory} MiB of guest memory")
    return footprints


def test_payload_guests_on_this_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Payload guests on this machine's own KVM."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("/dev/kvm is missing, or this user cannot open it")
    host = LocalHost("footprint")
    agent = AgentClient(host)
    run = Runner(agent, tmp_path)
    try:
        guests = [run(HELLO + FOR_EVER, f"guest{number}") for number in range(GUESTS)]
        for guest in guests:
            guest.wait_line("hi")
        pids = [int(guest.machine.facts["pid"]) for guest in guests]
        report("payload guests", host, pids, 64, capsys)
    finally:
        run.close()
        agent.close()
        host.close()


def test_linux_guests(
    guest_factory: GuestFactory,
    hypervisor: Hypervisor,
    record_sample: RecordSample,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two Linux guests with all devices. The second VMM is forked while the first one runs."""
    guests = [guest_factory(memory=256, vmm={"console": "both"}) for _ in range(2)]
    time.sleep(SETTLE_SECONDS)
    pids = [int(guest.facts["pid"]) for guest in guests]
    for value in report("Linux guests", hypervisor.host, pids, 256, capsys):
        record_sample("memory.vmm_private", value, "MiB", "lower")
    for guest in guests:
        guest.stop()
