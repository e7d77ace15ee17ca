"""Hypervisors: one strategy a file behind `base.Hypervisor`, found by entry point."""
