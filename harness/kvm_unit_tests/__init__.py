"""kvm-unit-tests as pytest items on the built-in VMM: list of tests, loader and exit codes.

Reference: docs/unittests.txt, README.md and the scripts of kvm-unit-tests.
"""
