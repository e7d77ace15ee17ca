"""What runs on a host: a supervisor that starts, watches, counts and ends guests.

Standard library only, Python 3.9 or later: with `harness.vmm` and `harness.kvm` it is shipped to a
host as one zipapp and driven by JSON lines on its standard input and output (see `supervisor`).
"""
