"""Which optional capabilities the built-in hypervisors and their machines declare."""

from __future__ import annotations

from typing import Any

import pytest

from harness.hypervisors import capabilities
from harness.hypervisors.capabilities import has_vhost_user_disks, needs_kvm
from harness.hypervisors.kvm import KvmHypervisor
from harness.hypervisors.machines import BuiltInMachine, QmpMachine, SupervisedMachine
from harness.hypervisors.native import NativeHypervisor
from harness.hypervisors.qemu import Q35Hypervisor, QemuHypervisor

OF_HYPERVISORS = ("Clone", "Payloads", "OwnImage", "HostNetwork")
OF_MACHINES = (
    "Introspection",
    "Snapshot",
    "DirtyPages",
    "Balloon",
    "ExitLimit",
    "Monitor",
    "Cgroup",
)


def declared(kind: type, names: tuple[str, ...], **attributes: Any) -> set[str]:
    """The capabilities that an instance of a class has."""
    instance: Any = object.__new__(kind)
    vars(instance).update(attributes)
    return {
        name for name in names if isinstance(instance, getattr(capabilities, f"Supports{name}"))
    }


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (KvmHypervisor, {"Clone", "Payloads", "HostNetwork"}),
        (QemuHypervisor, {"Payloads", "HostNetwork"}),
        (Q35Hypervisor, {"Payloads", "HostNetwork"}),
        (NativeHypervisor, {"HostNetwork"}),
    ],
)
def test_hypervisors_declare_their_capabilities(kind: type, expected: set[str]) -> None:
    assert declared(kind, OF_HYPERVISORS, host=None) == expected
    assert {f"Supports{name}" for name in expected} <= {base.__name__ for base in kind.__mro__}
    assert needs_kvm(kind) is (kind is not NativeHypervisor)
    assert has_vhost_user_disks(object.__new__(kind)) is (kind is not NativeHypervisor)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (
            BuiltInMachine,
            {"Introspection", "Snapshot", "DirtyPages", "Balloon", "ExitLimit", "Cgroup"},
        ),
        (QmpMachine, {"Monitor", "Cgroup"}),
        (SupervisedMachine, {"Cgroup"}),
    ],
)
def test_machines_declare_their_capabilities(kind: type, expected: set[str]) -> None:
    assert declared(kind, OF_MACHINES) == expected
    bases = {base.__name__ for base in kind.__mro__}
    assert {f"Supports{name}" for name in expected} <= bases


def test_a_function_as_a_factory_needs_kvm() -> None:
    assert needs_kvm(lambda host, progress: None)
