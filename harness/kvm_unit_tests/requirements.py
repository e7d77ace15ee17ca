"""What a test asks of its machine, in QEMU's words, and whether our VMM can give it."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass

from harness.kvm_unit_tests.catalogue import Entry

MEMORY = 128  # MiB, as QEMU's default
_MOST_MEMORY = 1 << 20
_UNITS = {"": 1, "m": 1, "g": 1024}
_CPU_MODELS = ("host", "max", "qemu64", "kvm64")
_NESTED = ("vmx", "svm")
_HARMLESS = ("migratable=no", "host-phys-bits", "host-phys-bits=on")
_CLOCK = "`date +%s`"


class Unsupported(Exception):
    """The built-in VMM cannot be what the test asks for; the text says why."""


@dataclass(frozen=True)
class Machine:
    """memory: MiB. arguments: what the test's command line has after its name."""

    vcpus: int
    memory: int
    arguments: str


def machine(entry: Entry, cpus: int, arch: str = "x86_64") -> Machine:
    """What to make for a test. cpus: of the host. Raises Unsupported."""
    if entry.arch and entry.arch != arch:
        raise Unsupported(f"{entry.arch} only")
    if entry.accel and entry.accel.partition(",")[0] != "kvm":
        raise Unsupported(f"accelerator {entry.accel} only")
    for group, why in (("migration", "migration"), ("panic", "a panic device")):
        if group in entry.groups:
            raise Unsupported(f"it needs {why}")
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
    return Machine(vcpus, memory, _words_of_host(arguments))


def _words(parameters: str) -> Iterator[str]:
    try:
        return iter(shlex.split(_words_of_host(parameters)))
    except ValueError as error:
        raise Unsupported(f"its parameters cannot be read: {error}") from None


def _words_of_host(text: str) -> str:
    """With what a shell would put in: the time, the only such thing in use. No shell runs here."""
    text = text.replace(_CLOCK, str(int(time.time())))
    if "`" in text or "$(" in text:
        raise Unsupported(f"it needs a shell: {text}")
    return text


def _vcpus(text: str, cpus: int) -> int:
    text = text.replace("$MAX_SMP", str(cpus))
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise Unsupported(f"{text!r} is no number of CPUs")
    return int(text)


def _mebibytes(text: str) -> int:
    found = re.fullmatch(r"(\d{1,9})([mg]?)", text.lower())
    size = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 0 < size <= _MOST_MEMORY:
        raise Unsupported(f"{text!r} is no size of memory")
    return size


def _check_cpu(text: str) -> None:
    """A guest has the host's CPU, less nested virtualization: more features than a model are no
    harm, fewer cannot be had."""
    model, *features = text.split(",")
    if model not in _CPU_MODELS:
        raise Unsupported(f"CPU model {model}: guests have the host's CPU")
    for feature in features:
        name = feature.removeprefix("+").removesuffix("=on")
        if name in _NESTED:
            raise Unsupported(f"nested virtualization ({name})")
        if not feature.startswith("+") and feature not in _HARMLESS:
            raise Unsupported(f"CPU {feature}: guests have the host's CPU as it is")
