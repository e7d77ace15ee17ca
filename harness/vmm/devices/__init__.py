"""Devices, one per file, on a range-matched bus."""
