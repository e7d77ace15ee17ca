"""What these tests share with the VMM's."""

from tests.vmm.conftest import kvm_device

__all__ = ["kvm_device"]
