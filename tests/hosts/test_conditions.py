"""Conditions that make figures vary, found in the output of a host."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from harness.hosts import conditions
from harness.hosts.base import HostFacts
from harness.hosts.local import LocalHost
from harness.ssh.process import Completed

QUIET = """
@ load
0.10 0.20 0.30 1/100 4242
@ memory
SwapTotal:       1000000 kB
SwapFree:        1000000 kB
@ virtual
@ boost
0
@ no_turbo
1
@ shmem
[advise]
@ ksm
0
@ power
Full
"""
FACTS = HostFacts("h", "vmx", "CPU", 4, 1 << 34, "6.1", governor="performance", smt="off")


def test_quiet_host_has_no_disturbances() -> None:
    assert conditions.parse_disturbances(QUIET, FACTS) == []
    assert conditions.parse_disturbances("", replace(FACTS, governor="", smt="")) == []


@pytest.mark.parametrize(
    ("old", "new", "pattern"),
    [
        ("0.10 0.20", "3.00 0.20", r"busy before the first test \(load average 3\.0 on 4 CPUs\)"),
        ("SwapFree:        1000000", "SwapFree:        500000", "swapped memory out"),
        ("@ virtual\n", "@ virtual\nhypervisor\n", "is a virtual machine"),
        ("@ boost\n0", "@ boost\n1", "follows their temperature"),
        ("@ no_turbo\n1", "@ no_turbo\n0", "follows their temperature"),
        ("@ ksm\n0", "@ ksm\n1", "KSM merges pages"),
        ("@ shmem\n[advise]", "@ shmem\n[never]", "no huge pages"),
        ("Full", "Full\nDischarging", "on battery"),
    ],
)
def test_each_disturbance_is_reported(old: str, new: str, pattern: str) -> None:
    assert old in QUIET
    (line,) = conditions.parse_disturbances(QUIET.replace(old, new), FACTS)
    assert re.search(pattern, line)


def test_facts_of_the_host_count() -> None:
    lines = conditions.parse_disturbances(QUIET, replace(FACTS, governor="powersave", smt="on"))
    assert [line.split("(")[0] for line in lines] == [
        "the CPUs' clock follows the load ",
        "two threads share a core ",
    ]


def test_this_machine_is_checked() -> None:
    host = LocalHost("a test")
    try:
        assert isinstance(conditions.find_disturbances(host.run, host.facts, 0.0), list)
    finally:
        host.close()


def test_emulated_host_reports_the_load_of_its_machine() -> None:
    def run(argv: list[str]) -> Completed:
        raise AssertionError("the emulated host itself is not checked")

    facts = replace(FACTS, backend="emulated")
    (line,) = conditions.find_disturbances(run, facts, 1.0)
    assert line.startswith("the machine that emulates the host was busy")
    assert conditions.find_disturbances(run, facts, 0.1) == []
