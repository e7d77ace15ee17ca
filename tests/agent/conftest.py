"""A supervisor on this machine, as the VMM's own tests have it."""

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
