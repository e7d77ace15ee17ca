"""The plugin's markers: their declarations, their checks at collection, and what they decide."""

# ruff: noqa: PLC0415 - every pytest run loads this module, so heavy imports are inside functions
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest

from harness.plugin.host_manager import NATIVE
from harness.plugin.item_usage import uses_fixture, uses_plugin
from harness.plugin.options import PROFILES

BOOTS = {"short": 3, "full": 8}  # by profile, for a test with the fixture boot and without marker
MAX_PROBLEMS = 10  # how many wrong markers one usage error lists

Problem = tuple[str, str]  # what is wrong, and a hint


class Marker(NamedTuple):
    """One marker. check: returns what is wrong with a mark of that name; None when nothing is."""

    declaration: str
    check: Callable[[pytest.Mark], Problem | None]

    @property
    def name(self) -> str:
        return self.declaration.partition(":")[0].partition("(")[0]


def _check_guest(mark: pytest.Mark) -> Problem | None:
    from harness.guest.guest_options import guest_options_problem

    if mark.args:
        return f"{mark.args[0]!r} has no name", "write guest(vcpus=2, memory=512)"
    return guest_options_problem(mark.kwargs)


def _check_payload(mark: pytest.Mark) -> Problem | None:
    from harness.guest.guest_options import unknown_name
    from harness.guest.payload import BASES, payload_options

    if mark.args:
        return f"{mark.args[0]!r} has no name", "write payload(memory=16)"
    mode = mark.kwargs.get("mode")
    if mode is not None and mode not in tuple(BASES):
        return f"mode={mode!r} is unknown", f"choose one of {', '.join(BASES)}"
    known = payload_options()
    return next((unknown_name(name, known) for name in mark.kwargs if name not in known), None)


def _check_capabilities(mark: pytest.Mark) -> Problem | None:
    from harness.guest.guest_options import unknown_name
    from harness.kvm.capabilities import NUMBERS

    if problem := _check_names(mark):
        return problem
    for name in mark.args:
        if name.removeprefix("KVM_CAP_") not in NUMBERS:
            similar = unknown_name(name.removeprefix("KVM_CAP_"), list(NUMBERS))[1]
            hint = similar.removesuffix("=") if similar.startswith("write ") else "see linux/kvm.h"
            return f"KVM has no capability {name!r}", hint
    return None


def _check_names(mark: pytest.Mark) -> Problem | None:
    if mark.kwargs or not mark.args or not all(isinstance(name, str) for name in mark.args):
        arguments = ", ".join([*map(repr, mark.args), *(f"{name}=" for name in mark.kwargs)])
        return f"({arguments}) is no list of names", f'write {mark.name}("NAME", ...)'
    return None


def _check_nothing(mark: pytest.Mark) -> Problem | None:
    if mark.args or mark.kwargs:
        return "it takes no arguments", f"write {mark.name} alone"
    return None


def _check_boots(mark: pytest.Mark) -> Problem | None:
    if mark.args or not mark.kwargs or set(mark.kwargs) - set(PROFILES):
        return "it takes short= and full= alone", "write boots(short=3, full=8)"
    for name, number in mark.kwargs.items():
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            return f"{name}={number!r} is no whole number from 1", "write boots(short=3, full=8)"
    return None


MARKERS = (
    Marker(
        "guest(vcpus=, memory=, disks=, network=, ...): what the test's guest is made of (memory "
        "in MiB); all names are in harness.guest.guest_options.GuestOptions",
        _check_guest,
    ),
    Marker(
        "payload(mode=, memory=, vcpus=, ...): how the test's payload guests are made; every test "
        "with the fixture payload has it",
        _check_payload,
    ),
    Marker(
        "boots(short=, full=): how many times a test with the fixture boot runs in each profile, "
        "each time with a fresh guest (default: 3 and 8)",
        _check_boots,
    ),
    Marker(
        "requires_kvm_cap(name, ...): skip the test where KVM does not have one of these "
        'capabilities ("KVM_CAP_IRQFD", or "IRQFD")',
        _check_capabilities,
    ),
    Marker(
        "compare_native: run the test in native guests, too (containers of the guest image on the "
        "host's kernel), so that the overhead is known",
        _check_nothing,
    ),
    Marker(
        "requires_vm: the test needs a virtual machine; it does not run in native guests",
        _check_nothing,
    ),
    Marker(
        "only_hypervisors(name, ...): run the test on these hypervisors alone",
        _check_names,
    ),
    Marker(
        "exclusive_host: run no other test with guests on the host meanwhile",
        _check_nothing,
    ),
)


def declare(config: pytest.Config) -> None:
    """Register the markers with pytest."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker.declaration)
    if not config.pluginmanager.hasplugin("benchmark"):
        config.addinivalue_line("markers", "benchmark: the test measures (as pytest-benchmark)")


def check(items: Sequence[pytest.Item]) -> str:
    """What is wrong with the markers of tests that use the plugin; "" when nothing is."""
    lines = [
        f"{item.nodeid.partition('[')[0]}: marker {marker.name}: {problem[0]}\nhint: {problem[1]}"
        for item in filter(uses_plugin, items)
        for marker in MARKERS
        for mark in item.iter_markers(marker.name)
        if (problem := marker.check(mark))
    ]
    lines = list(dict.fromkeys(lines))  # a test's parameters share its markers
    more = [f"and {len(lines) - MAX_PROBLEMS} more"] if len(lines) > MAX_PROBLEMS else []
    return "\n".join([*lines[:MAX_PROBLEMS], *more])


def boots_of(test: pytest.Item, profile: str) -> int:
    """How many times a test with the fixture `boot` runs in a profile."""
    marker = test.get_closest_marker("boots")
    number = (marker.kwargs if marker else {}).get(profile, BOOTS[profile])
    return number if isinstance(number, int) else 1  # check() then refuses the marker


def needs_marker_payload(item: pytest.Item) -> bool:
    """Whether a test uses payload guests and does not have the marker that selects such tests."""
    return uses_fixture(item, "payload") and item.get_closest_marker("payload") is None


def excluded_by(test: pytest.Item, hypervisor: str) -> str:
    """Why a test does not run on a hypervisor; "" if it does."""
    if hypervisor == NATIVE and test.get_closest_marker("requires_vm"):
        return "needs a virtual machine, which a native guest is not"
    marker = test.get_closest_marker("only_hypervisors")
    if marker and hypervisor not in (*marker.args, "auto"):
        return f"is for {', '.join(map(str, marker.args))}, not for {hypervisor}"
    return ""
