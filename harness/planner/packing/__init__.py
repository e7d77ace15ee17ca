"""The solver: packs machines onto hosts over time. One strategy a file; search.py calls them."""

from harness.planner.packing.solver import solve

__all__ = ["solve"]
