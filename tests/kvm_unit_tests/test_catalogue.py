"""Reading a list of tests, and what each asks of its machine."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from harness.kvm_unit_tests import catalogue, requirements
from harness.kvm_unit_tests.catalogue import Entry, ListError
from harness.kvm_unit_tests.requirements import Machine, Unsupported

FOLDER = Path("/folder")
LIST = '''
# [not_this]
file = before.flat      # belongs to no test

[first]
file = vmexit.flat
smp = 2
extra_params = -append 'cpuid vmcall' -m 256
groups = vmexit  tasks
arch = x86_64
timeout = 30

[ second test ]         # a comment
# file = other.flat
file=second.flat
smp=$MAX_SMP
accel = kvm
check = /sys/a=Y /proc/b=0
check = /proc/c=1
timeout = 2m
machine = none

[third]
file = third.flat
qemu_params = """-append 'one
two' """
test_args = "ignored by the parameters"
timeout = 0
'''


def test_a_list_is_read_as_it_is_documented() -> None:
    first, second, third = catalogue.read(LIST, FOLDER)
    assert first == Entry(
        name="first",
        line=5,
        file=FOLDER / "vmexit.flat",
        smp="2",
        parameters="-append 'cpuid vmcall' -m 256",
        groups=("vmexit", "tasks"),
        arch="x86_64",
        timeout=30.0,
    )
    assert (second.name, second.file, second.smp) == (
        "second test",
        FOLDER / "second.flat",
        "$MAX_SMP",
    )
    assert (second.accel, second.timeout) == ("kvm", 120.0)
    assert second.checks == ["/sys/a=Y", "/proc/b=0", "/proc/c=1"]
    assert (third.parameters, third.timeout) == ("-append 'one\ntwo' ", 0.0)
    assert catalogue.read("", FOLDER) == []
    assert catalogue.read("[a]\nfile = a.flat", FOLDER)[0].timeout == 90.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[a]\nsmp = 2\n", "line 1: the test 'a' has no file"),
        ("[a]\nfile =\n", "line 2: file '' is no file name"),
        ("[a]\nfile = ../a.flat\n", "line 2: file '../a.flat' is no file name"),
        ("[a]\nfile = a\n\ntimeout = soon\n", "line 4: timeout 'soon' is no duration"),
        ("[a]\nfile = a\0b\n", "it is no text"),
        ('[a]\nfile = a\nextra_params = """-m 1\n', "line 3: the text that begins here"),
    ],
)
def test_a_list_that_cannot_be_read_names_the_line(text: str, said: str) -> None:
    with pytest.raises(ListError, match=said):
        catalogue.read(text, FOLDER)


def test_the_list_is_found_where_it_may_be(tmp_path: Path) -> None:
    assert catalogue.find(tmp_path) == (None, tmp_path)
    below = tmp_path / "x86"
    below.mkdir()
    (below / "unittests.cfg").touch()
    assert catalogue.find(tmp_path) == (below / "unittests.cfg", below)
    (tmp_path / "unittests.cfg").touch()
    (below / "a.flat").touch()
    assert catalogue.find(tmp_path) == (tmp_path / "unittests.cfg", below)
    (tmp_path / "a.flat").touch()
    assert catalogue.find(tmp_path) == (tmp_path / "unittests.cfg", tmp_path)


def entry(parameters: str = "", **fields: object) -> Entry:
    made = Entry("test", 1, FOLDER / "test.flat", parameters=parameters)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("parameters", "machine"),
    [
        ("", Machine(1, 128, "")),
        ("-append cpuid", Machine(1, 128, "cpuid")),
        ("--append 'a b'", Machine(1, 128, "a b")),
        ('-append "-a_test -b*"', Machine(1, 128, "-a_test -b*")),
        ("-m 2048", Machine(1, 2048, "")),
        ("-m 4g -smp 3", Machine(3, 4096, "")),
        ("-m 1G -enable-kvm -append x", Machine(1, 1024, "x")),
        ("-cpu max -accel kvm", Machine(1, 128, "")),
        ("-cpu qemu64,+x2apic,+tsc-deadline", Machine(1, 128, "")),
        ("-cpu host,migratable=no", Machine(1, 128, "")),
    ],
)
def test_what_our_vmm_gives(parameters: str, machine: Machine) -> None:
    assert requirements.machine(entry(parameters), cpus=4) == machine


def test_cpus_and_arguments_from_their_own_fields() -> None:
    assert requirements.machine(entry(smp="$MAX_SMP"), cpus=4) == Machine(4, 128, "")
    assert requirements.machine(entry(smp="8", arguments="a b"), cpus=4) == Machine(8, 128, "a b")


def test_the_time_is_put_in_as_a_shell_would() -> None:
    before = int(time.time())
    made = requirements.machine(entry('--append "10 `date +%s`"'), cpus=1)
    first, second = made.arguments.split()
    assert first == "10"
    assert before <= int(second) <= int(time.time())


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (entry("-cpu max,+vmx"), r"nested virtualization \(vmx\)"),
        (entry("-cpu max,svm=on"), r"nested virtualization \(svm\)"),
        (entry("-cpu qemu64,-pcid"), "CPU -pcid"),
        (entry("-cpu max,vendor=GenuineIntel"), "CPU vendor=GenuineIntel"),
        (entry("-cpu kvm64,hv_vpindex"), "CPU hv_vpindex"),
        (entry("-cpu IvyBridge,phys-bits=36"), "CPU model IvyBridge"),
        (entry("-cpu"), "CPU model : "),
        (entry("-machine kernel_irqchip=split"), "asks for -machine kernel_irqchip=split"),
        (entry("-device edu"), "asks for -device edu"),
        (entry("-accel tcg"), "asks for -accel tcg"),
        (entry("-overcommit"), "asks for -overcommit$"),
        (entry("-m lots"), "'lots' is no size of memory"),
        (entry("-m 0"), "'0' is no size of memory"),
        (entry("-m 99999999g"), "is no size of memory"),
        (entry("-smp 0"), "'0' is no number of CPUs"),
        (entry(smp="$(nproc)"), r"'\$\(nproc\)' is no number of CPUs"),
        (entry("-append 'x"), "cannot be read: No closing quotation"),
        (entry("-append `id`"), "it needs a shell: -append `id`"),
        (entry(arguments="$(id)"), r"it needs a shell: \$\(id\)"),
        (entry(arch="i386"), "i386 only"),
        (entry(accel="tcg"), "accelerator tcg only"),
        (entry(groups=("migration",)), "it needs migration"),
        (entry(groups=("a", "panic")), "it needs a panic device"),
    ],
)
def test_what_our_vmm_does_not_give_is_named(made: Entry, why: str) -> None:
    with pytest.raises(Unsupported, match=why):
        requirements.machine(made, cpus=2)
