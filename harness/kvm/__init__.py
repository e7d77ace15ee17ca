"""The kernel's KVM API (Documentation/virt/kvm/api.rst): ioctls, structures, VM and vCPU.

Standard library only, Python 3.9 or later. Imports nothing else of harness.
"""
