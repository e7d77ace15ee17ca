"""Devices, one a file, on a range-matched bus."""
