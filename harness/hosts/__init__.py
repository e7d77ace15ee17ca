"""Hosts: the machines on which hypervisors run."""
