"""The parser of unittests.cfg, and the machine that each test requires."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from harness.kvm_unit_tests import catalogue, requirements
from harness.kvm_unit_tests.catalogue import Entry, ListError
from harness.kvm_unit_tests.requirements import MachineConfig, Unsupported

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


def test_parse_list_reads_all_fields() -> None:
    first, second, third = catalogue.parse_list(LIST, FOLDER)
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
    assert catalogue.parse_list("", FOLDER) == []
    assert catalogue.parse_list("[a]\nfile = a.flat", FOLDER)[0].timeout == 90.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a]\nsmp = 2\n", "line 1: the test 'a' has no file"),
        ("[a]\nfile =\n", "line 2: file '' is not a file name"),
        ("[a]\nfile = ../a.flat\n", "line 2: file '../a.flat' is not a file name"),
        ("[a]\nfile = a\n\ntimeout = soon\n", "line 4: timeout 'soon' is not a duration"),
        ("[a]\nfile = a\0b\n", "the list is not a text file"),
        ('[a]\nfile = a\nextra_params = """-m 1\n', "line 3: the text that begins here"),
    ],
)
def test_parse_list_names_the_line_of_an_error(text: str, message: str) -> None:
    with pytest.raises(ListError, match=message):
        catalogue.parse_list(text, FOLDER)


def test_find_list_looks_in_both_folders(tmp_path: Path) -> None:
    assert catalogue.find_list(tmp_path) == (None, tmp_path)
    x86 = tmp_path / "x86"
    x86.mkdir()
    (x86 / "unittests.cfg").touch()
    assert catalogue.find_list(tmp_path) == (x86 / "unittests.cfg", x86)
    (tmp_path / "unittests.cfg").touch()
    (x86 / "a.flat").touch()
    assert catalogue.find_list(tmp_path) == (tmp_path / "unittests.cfg", x86)
    (tmp_path / "a.flat").touch()
    assert catalogue.find_list(tmp_path) == (tmp_path / "unittests.cfg", tmp_path)


def entry(parameters: str = "", **fields: object) -> Entry:
    result = Entry("test", 1, FOLDER / "test.flat", parameters=parameters)
    for name, value in fields.items():
        setattr(result, name, value)
    return result


@pytest.mark.parametrize(
    ("parameters", "machine"),
    [
        ("", MachineConfig(1, 128, "")),
        ("-append cpuid", MachineConfig(1, 128, "cpuid")),
        ("--append 'a b'", MachineConfig(1, 128, "a b")),
        ('-append "-a_test -b*"', MachineConfig(1, 128, "-a_test -b*")),
        ("-m 2048", MachineConfig(1, 2048, "")),
        ("-m 4g -smp 3", MachineConfig(3, 4096, "")),
        ("-m 1G -enable-kvm -append x", MachineConfig(1, 1024, "x")),
        ("-cpu max -accel kvm", MachineConfig(1, 128, "")),
        ("-cpu qemu64,+x2apic,+tsc-deadline", MachineConfig(1, 128, "")),
        ("-cpu host,migratable=no", MachineConfig(1, 128, "")),
    ],
)
def test_machine_config_of_supported_options(parameters: str, machine: MachineConfig) -> None:
    assert requirements.machine_config(entry(parameters), cpus=4) == machine


def test_machine_config_uses_smp_and_test_args() -> None:
    assert requirements.machine_config(entry(smp="$MAX_SMP"), cpus=4) == MachineConfig(4, 128, "")
    assert requirements.machine_config(entry(smp="8", arguments="a b"), cpus=4) == MachineConfig(
        8, 128, "a b"
    )


def test_machine_config_substitutes_the_time() -> None:
    before = int(time.time())
    machine = requirements.machine_config(entry('--append "10 `date +%s`"'), cpus=1)
    first, second = machine.arguments.split()
    assert first == "10"
    assert before <= int(second) <= int(time.time())


@pytest.mark.parametrize(
    ("unsupported", "reason"),
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
        (entry("-m lots"), "'lots' is not a size of memory"),
        (entry("-m 0"), "'0' is not a size of memory"),
        (entry("-m 99999999g"), "is not a size of memory"),
        (entry("-smp 0"), "'0' is not a number of CPUs"),
        (entry(smp="$(nproc)"), r"'\$\(nproc\)' is not a number of CPUs"),
        (entry("-append 'x"), "cannot be read: No closing quotation"),
        (entry("-append `id`"), "it needs a shell: -append `id`"),
        (entry(arguments="$(id)"), r"it needs a shell: \$\(id\)"),
        (entry(arch="i386"), "i386 only"),
        (entry(accel="tcg"), "accelerator tcg only"),
        (entry(groups=("migration",)), "it needs migration"),
        (entry(groups=("a", "panic")), "it needs a panic device"),
    ],
)
def test_machine_config_refuses_unsupported_options(unsupported: Entry, reason: str) -> None:
    with pytest.raises(Unsupported, match=reason):
        requirements.machine_config(unsupported, cpus=2)
