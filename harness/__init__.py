"""Test and benchmark hypervisors from pytest."""
