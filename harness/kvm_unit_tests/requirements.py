"""A test's requirements for its machine, which the list states as QEMU options."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass

from harness.kvm_unit_tests.catalogue import Entry

MEMORY = 128  # MiB, QEMU's default
_MAX_MEMORY = 1 << 20  # MiB
_UNITS = {"": 1, "m": 1, "g": 1024}
_CPU_MODELS = ("host", "max", "qemu64", "kvm64")
_NESTED_FEATURES = ("vmx", "svm")
_IGNORED_FEATURES = ("migratable=no", "host-phys-bits", "host-phys-bits=on")
_TIME_COMMAND = "`date +%s`"


class Unsupported(Exception):
    """The built-in VMM does not meet a requirement. The text is the reason."""


@dataclass(frozen=True)
class MachineConfig:
    """A test's machine. memory: MiB. arguments: the test's command line after its name."""

    vcpus: int
    memory: int
    arguments: str


def machine_config(entry: Entry, cpus: int, arch: str = "x86_64") -> MachineConfig:
    """The machine for a test. cpus: of the host. arch: of the build. Raises Unsupported."""
    if entry.arch and entry.arch != arch:
        raise Unsupported(f"{entry.arch} only")
    if entry.accel and entry.accel.partition(",")[0] != "kvm":
        raise Unsupported(f"accelerator {entry.accel} only")
    for group, feature in (("migration", "migration"), ("panic", "a panic device")):
        if group in entry.groups:
            raise Unsupported(f"it needs {feature}")
    vcpus, memory, arguments = _vcpus(entry.smp, cpus), MEMORY, entry.arguments
    words = _words(entry.parameters)
    for word in words:
        option = word[1:] if word.startswith("--") else word
        if option == "-enable-kvm":
            continue
        value = next(words, "")
        if option == "-append":
            arguments = value
        elif option == "-m":
            memory = _mebibytes(value)
        elif option == "-smp":
            vcpus = _vcpus(value, cpus)
        elif option == "-cpu":
            _check_cpu(value)
        elif (option, value) != ("-accel", "kvm"):
            raise Unsupported(f"it asks for {word} {value}".rstrip())
    return MachineConfig(vcpus, memory, _substitute_time(arguments))


def _words(parameters: str) -> Iterator[str]:
    try:
        return iter(shlex.split(_substitute_time(parameters)))
    except ValueError as error:
        raise Unsupported(f"its parameters cannot be read: {error}") from None


def _substitute_time(text: str) -> str:
    """Replace the only shell command that lists use, which prints the time. No shell runs."""
    text = text.replace(_TIME_COMMAND, str(int(time.time())))
    if "`" in text or "$(" in text:
        raise Unsupported(f"it needs a shell: {text}")
    return text


def _vcpus(text: str, cpus: int) -> int:
    text = text.replace("$MAX_SMP", str(cpus))
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise Unsupported(f"{text!r} is not a number of CPUs")
    return int(text)


def _mebibytes(text: str) -> int:
    match = re.fullmatch(r"(\d{1,9})([mg]?)", text.lower())
    size = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 0 < size <= _MAX_MEMORY:
        raise Unsupported(f"{text!r} is not a size of memory")
    return size


def _check_cpu(text: str) -> None:
    """Check a CPU model with features. Raises Unsupported.

    Guests have the host's CPU without nested virtualization. That may have more features than the
    model, which is harmless. The VMM cannot remove features.
    """
    model, *features = text.split(",")
    if model not in _CPU_MODELS:
        raise Unsupported(f"CPU model {model}: guests have the host's CPU")
    for feature in features:
        name = feature.removeprefix("+").removesuffix("=on")
        if name in _NESTED_FEATURES:
            raise Unsupported(f"nested virtualization ({name})")
        if not feature.startswith("+") and feature not in _IGNORED_FEATURES:
            raise Unsupported(f"CPU {feature}: guests have the host's CPU as it is")
