"""Virtio 1.2 devices (OASIS virtio-v1.2) on PCI: transport, split rings, devices."""
