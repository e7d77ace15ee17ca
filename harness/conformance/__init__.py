"""The conformance suite of the hypervisor protocol, for every hypervisor and every host:

    pytest --pyargs harness.conformance --hypervisor=NAME

A test of an optional capability is skipped where the hypervisor does not declare it. Ten guests
boot, at most two at once.
"""
