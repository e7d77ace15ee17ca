"""The options of a guest, for guest_factory(), guest_group() and the marker `guest`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from harness.hypervisors.base import BOOT_PROTOCOLS, NETWORKS, ROOTS, SSH_TRANSPORTS, Disk

if TYPE_CHECKING:
    from harness.guest.devices import PciDevice, PortDevice
    from images.image import GuestImage


class GuestOptions(TypedDict, total=False):
    """Optional fields of a guest; harness.hypervisors.base.GuestSpec describes each.

    memory, memory_limit: MiB. boot_timeout: seconds. disks: in addition to the root disk. cmdline:
    added to the kernel's command line. image: replaces the session's image. devices: emulated by
    the test.
    """

    vcpus: int
    memory: int
    boot_timeout: float
    disks: Sequence[Disk]
    cmdline: str
    image: GuestImage
    devices: Sequence[PciDevice | PortDevice]
    vmm: Mapping[str, Any]
    cpu_limit: float
    cpus: Sequence[int]
    memory_limit: int
    pin: Sequence[int]
    exit_limit: int | None
    sandbox: bool
    network: str
    ssh: str
    boot: str
    root: str
    hugepages: bool
    mergeable: bool


GUEST_OPTION_NAMES = tuple(GuestOptions.__annotations__)
_WORDS = {"network": NETWORKS, "ssh": SSH_TRANSPORTS, "boot": BOOT_PROTOCOLS, "root": ROOTS}
_COUNTS = ("vcpus", "memory")
_EXAMPLES = {"vcpus": 2, "memory": 256}
_CPU_LISTS = ("cpus", "pin")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_limit(value: object) -> bool:
    return (_is_int(value) or isinstance(value, float)) and bool(value >= 0)  # type: ignore[operator]


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


# name -> check, what the value must be, an example
_CHECKS: dict[str, tuple[Callable[[Any], bool], str, str]] = {
    "cpu_limit": (_is_limit, "number of CPUs from 0", "0.5"),
    "memory_limit": (_is_limit, "number of MiB from 0", "256"),
    "exit_limit": (
        lambda value: value is None or (_is_int(value) and value >= 0),
        "whole number from 0",
        "100000",
    ),
    "sandbox": (_is_bool, "bool", "False"),
    "hugepages": (_is_bool, "bool", "True"),
    "mergeable": (_is_bool, "bool", "True"),
    "vmm": (lambda value: isinstance(value, Mapping), "mapping", '{"balloon": False}'),
    "devices": (lambda value: isinstance(value, list | tuple), "list of devices", "[device]"),
}


def guest_options_problem(options: Mapping[str, Any]) -> tuple[str, str] | None:
    """What is wrong with guest options: the problem and a hint; None when nothing is."""
    problems = (_option_problem(name, value) for name, value in options.items())
    return next(filter(None, problems), None)


def _option_problem(name: str, value: Any) -> tuple[str, str] | None:
    problem, hint = "", ""
    if name not in GUEST_OPTION_NAMES:
        problem, hint = unknown_name(name, GUEST_OPTION_NAMES)
    elif name in _COUNTS and (not _is_int(value) or value < 1):
        problem, hint = (
            f"{name}={value!r} is no whole number from 1",
            f"write {name}={_EXAMPLES[name]}",
        )
    elif name == "boot_timeout" and (not isinstance(value, int | float) or not value > 0):
        problem, hint = f"{name}={value!r} is no number of seconds above 0", f"write {name}=60"
    elif name in _WORDS and value not in _WORDS[name]:
        problem, hint = f"{name}={value!r} is unknown", f"choose one of {', '.join(_WORDS[name])}"
    elif name in _CPU_LISTS and not _is_cpu_list(value):
        example = repr([value]) if _is_int(value) else "[0, 1]"
        problem, hint = f"{name}={value!r} is no list of CPUs", f"write {name}={example}"
    elif name in _CHECKS and not _CHECKS[name][0](value):
        _, kind, example = _CHECKS[name]
        problem, hint = f"{name}={value!r:.80} is no {kind}", f"write {name}={example}"
    elif name == "disks" and not all(isinstance(disk, Disk) for disk in _sequence(value)):
        problem = f"{name}={value!r:.80} is no list of disks"
        hint = "import Disk from harness.hypervisors.base, and write disks=[Disk(path, serial)]"
    return (problem, hint) if problem else None


def unknown_name(name: str, known: Sequence[str]) -> tuple[str, str]:
    """The problem and the hint for an argument of an unknown name."""
    similar = difflib.get_close_matches(name, known, 1)
    hint = f"write {similar[0]}=" if similar else f"choose among {', '.join(sorted(known))}"
    return f"there is no argument {name}=", hint


def _is_cpu_list(value: object) -> bool:
    is_sequence = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    return is_sequence and all(map(_is_int, value))  # type: ignore[call-overload]


def _sequence(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else (value,)
