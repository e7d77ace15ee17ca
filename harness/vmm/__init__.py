"""The built-in virtual machine monitor: Python is the control plane, the kernel the data path.

Standard library only, Python 3.9 or later. Imports nothing of harness but harness.kvm.
harness.agent forks one process per guest, which builds and runs a `machine.Machine`.
"""
