"""Parsing a host's facts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from harness.errors import HostError
from harness.hosts.facts import backend_of, parse_cpu_list, parse_cpuinfo, parse_facts
from harness.hosts.local import LocalHost

TEXT = """\
@ uname
node7
6.1.0-30-amd64
@ cpuinfo
processor	: 0
model name	: Some CPU @ 2.00GHz
microcode	: 0x2b
flags		: fpu vmx sse

processor	: 1
model name	: Some CPU @ 2.00GHz
@ memory
MemTotal:       16384256 kB
@ governor
performance
@ smt
on
@ mitigations
l1tf:Mitigation: PTE Inversion; VMX: flush
mds:Not affected
@ kvm
dev
"""


def test_parse_facts_reads_all_fields() -> None:
    facts = parse_facts(TEXT)
    assert facts.hostname == "node7"
    assert facts.kernel == "6.1.0-30-amd64"
    assert facts.cpus == 2
    assert facts.cpu_model == "Some CPU @ 2.00GHz"
    assert facts.microcode == "0x2b"
    assert facts.memory == 16384256 * 1024
    assert (facts.governor, facts.smt) == ("performance", "on")
    assert facts.mitigations == {
        "l1tf": "Mitigation: PTE Inversion; VMX: flush",
        "mds": "Not affected",
    }
    assert facts.backend == "vmx"


def test_cpus_are_limited_to_the_allowed_ones() -> None:
    assert parse_facts(TEXT).cpu_numbers == (0, 1), "without a list, all are allowed"
    facts = parse_facts(TEXT + "@ allowed\n1\n")
    assert (facts.cpus, facts.cpu_numbers) == (1, (1,))


@pytest.mark.parametrize(
    ("text", "numbers"), [("0-2,5", (0, 1, 2, 5)), ("3", (3,)), ("", ()), ("1,4-5", (1, 4, 5))]
)
def test_parse_cpu_list(text: str, numbers: tuple[int, ...]) -> None:
    assert parse_cpu_list(text) == numbers


def test_cores_are_groups_of_siblings() -> None:
    facts = parse_facts(TEXT + "@ cores\n0,2\n1,3\n0,2\n1,3\n0,2\n")
    assert facts.core_threads == ((0, 2), (1, 3))
    assert tuple(facts.siblings(3)) == (1, 3)
    assert [facts.cores(cpus) for cpus in ((), (0,), (0, 2), (0, 1), (0, 1, 2, 3))] == [
        0, 1, 1, 2, 2,
    ]  # fmt: skip


def test_each_cpu_is_a_core_of_a_host_that_does_not_say() -> None:
    for text in (TEXT, TEXT + "@ cores\n", TEXT + "@ cores\nnonsense\n-\n99999999999\n"):
        facts = parse_facts(text)
        assert facts.core_threads == ()
        assert tuple(facts.siblings(1)) == (1,)
        assert facts.cores(facts.cpu_numbers) == 2


def test_siblings_do_not_change_the_fingerprint() -> None:
    facts = parse_facts(TEXT + "@ cores\n0-1\n")
    assert facts.core_threads == ((0, 1),)
    assert facts.fingerprint == parse_facts(TEXT).fingerprint


def test_fingerprint_depends_on_hardware_and_not_on_the_name() -> None:
    facts = parse_facts(TEXT)
    renamed = dataclasses.replace(facts, hostname="other", memory=1)
    patched = dataclasses.replace(facts, microcode="0x2c")
    assert renamed.fingerprint == facts.fingerprint
    assert patched.fingerprint != facts.fingerprint


def test_missing_files_leave_fields_empty() -> None:
    text = TEXT.replace("performance\n", "").replace("dev\n", "")
    facts = parse_facts(text)
    assert facts.governor == ""
    assert facts.backend == "none"


@pytest.mark.parametrize(
    ("flags", "kvm", "emulated", "backend"),
    [
        ({"vmx"}, ["dev"], False, "vmx"),
        ({"svm"}, ["dev"], False, "svm"),
        ({"svm"}, [], False, "none"),
        (set(), ["dev"], False, "none"),
        (set(), ["dev", "pvm"], False, "pvm"),
        ({"svm"}, ["dev"], True, "emulated"),
    ],
)
def test_backend_of(flags: set[str], kvm: list[str], emulated: bool, backend: str) -> None:
    assert backend_of(flags, kvm, emulated) == backend


def test_parse_cpuinfo_counts_processors_and_keeps_the_first() -> None:
    lines = ["processor : 0", "model name : A", "", "processor : 1", "model name : B"]
    assert parse_cpuinfo(lines) == (2, {"processor": "0", "model name": "A"})


@pytest.mark.parametrize("text", ["", "sh: not found", "@ uname\nx\ny\n@ cpuinfo\n@ memory\n"])
def test_incomplete_output_is_an_error(text: str) -> None:
    with pytest.raises(HostError, match="facts cannot be read"):
        parse_facts(text)


def test_facts_of_this_machine() -> None:
    facts = LocalHost().facts
    assert facts.cpus >= 1
    assert 1 <= facts.cores(facts.cpu_numbers) <= facts.cpus
    if Path("/sys/devices/system/cpu/cpu0/topology").exists():
        assert set(facts.cpu_numbers) <= {cpu for core in facts.core_threads for cpu in core}
    assert facts.memory > 1 << 20
    assert facts.kernel
