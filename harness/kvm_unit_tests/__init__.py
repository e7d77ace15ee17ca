"""kvm-unit-tests as pytest items: its list of tests, its way to load them, its exit codes.

What they are and what they expect is described in that project's docs/unittests.txt, README and
scripts; here they run on the built-in VMM.
"""
