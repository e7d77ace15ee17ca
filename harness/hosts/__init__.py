"""Hosts: Linux machines on which hypervisors run. One strategy a file behind `base.Host`."""
