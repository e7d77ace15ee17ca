"""The options of a guest, for guest_factory(), guest_group() and the marker `guest`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from harness.hypervisors.base import BOOT_PROTOCOLS, NETWORKS, ROOTS, SSH_WAYS, Disk

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
_WORDS = {"network": NETWORKS, "ssh": SSH_WAYS, "boot": BOOT_PROTOCOLS, "root": ROOTS}
_COUNTS = ("vcpus", "memory")
_EXAMPLES = {"vcpus": 2, "memory": 256}
_CPU_LISTS = ("cpus", "pin")


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
    elif name in _CPU_LISTS and _is_int(value):
        problem, hint = f"{name}={value!r} is no list of CPUs", f"write {name}=[{value!r}]"
    elif name == "disks" and not all(isinstance(disk, Disk) for disk in _sequence(value)):
        problem = f"{name}={value!r:.80} is no list of disks"
        hint = "import Disk from harness.hypervisors.base, and write disks=[Disk(path, serial)]"
    return (problem, hint) if problem else None


def unknown_name(name: str, known: Sequence[str]) -> tuple[str, str]:
    """The problem and the hint for an argument of an unknown name."""
    similar = difflib.get_close_matches(name, known, 1)
    hint = f"write {similar[0]}=" if similar else f"choose among {', '.join(sorted(known))}"
    return f"there is no argument {name}=", hint


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _sequence(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else (value,)
