"""The kernel's KVM API (Documentation/virt/kvm/api.rst): ioctls, structures, VM and vCPU."""
