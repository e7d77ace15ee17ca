"""Fixtures of the VMM's tests: a supervisor on this machine."""

from tests.vmm.conftest import (
    kvm_device,
    own_run,
    own_supervisor,
    peers,
    run,
    shared_supervisor,
    supervisor,
)

__all__ = [
    "kvm_device",
    "own_run",
    "own_supervisor",
    "peers",
    "run",
    "shared_supervisor",
    "supervisor",
]
