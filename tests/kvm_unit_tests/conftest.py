"""Fixtures that these tests share with the VMM's tests."""

from tests.vmm.conftest import kvm_device

__all__ = ["kvm_device"]
