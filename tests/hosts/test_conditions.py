"""What makes figures vary, told from what a host says of itself."""

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


def test_a_quiet_host_has_nothing_to_tell() -> None:
    assert conditions.judge(QUIET, FACTS) == []
    assert conditions.judge("", replace(FACTS, governor="", smt="")) == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("0.10 0.20", "3.00 0.20", r"busy before the first test \(75% of its CPUs\)"),
        ("SwapFree:        1000000", "SwapFree:        500000", "swapped memory out"),
        ("@ virtual\n", "@ virtual\nhypervisor\n", "is a virtual machine"),
        ("@ boost\n0", "@ boost\n1", "follows their heat"),
        ("@ no_turbo\n1", "@ no_turbo\n0", "follows their heat"),
        ("@ ksm\n0", "@ ksm\n1", "KSM merges pages"),
        ("@ shmem\n[advise]", "@ shmem\n[never]", "no huge pages"),
        ("Full", "Full\nDischarging", "on battery"),
    ],
)
def test_each_thing_is_told(old: str, new: str, told: str) -> None:
    assert old in QUIET
    (found,) = conditions.judge(QUIET.replace(old, new), FACTS)
    assert re.search(told, found)


def test_the_hosts_facts_count_too() -> None:
    found = conditions.judge(QUIET, replace(FACTS, governor="powersave", smt="on"))
    assert [line.split("(")[0] for line in found] == [
        "the CPUs' clock follows the load ",
        "two threads share a core ",
    ]


def test_this_machine_can_be_looked_at() -> None:
    with_any = LocalHost("a test")
    try:
        assert isinstance(conditions.look(with_any.run, with_any.facts, 0.0), list)
    finally:
        with_any.close()


def test_an_emulated_host_is_as_quiet_as_its_machine() -> None:
    def run(argv: list[str]) -> Completed:
        raise AssertionError("nothing of it counts")

    facts = replace(FACTS, backend="emulated")
    (found,) = conditions.look(run, facts, 1.0)
    assert found.startswith("the machine that emulates the host was busy")
    assert conditions.look(run, facts, 0.1) == []
