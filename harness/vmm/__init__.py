"""The built-in virtual machine monitor: Python steers, the kernel carries.

Standard library only, Python 3.9 or later; of the harness it imports `harness.kvm` alone.
`harness.agent` forks a process a guest, which builds a `machine.Machine` and drives it.
"""
