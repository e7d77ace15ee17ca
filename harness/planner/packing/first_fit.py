"""First-fit decreasing over time: each item goes on the first host that has room in every slot."""

from __future__ import annotations

import numpy as np

from harness.planner.packing.hosts import Hosts
from harness.planner.packing.instance import Instance, Solution


def first_fit(instance: Instance, start: Solution | None = None) -> Solution:
    """Pack all items, or those that are unplaced in `start`. The fastest strategy."""
    hosts = Hosts(instance, None if start is None else start.fillings)
    if start is None:
        waiting = np.flatnonzero(~instance.pinned)
    else:
        waiting = np.asarray(start.unplaced, np.int64)
    size = instance.sizes[waiting] @ instance.criticality.astype(np.float32)
    unplaced = []
    for item in waiting[np.argsort(-size, kind="stable")].tolist():
        candidates = hosts.candidates(item)
        host = int(candidates[0]) if len(candidates) else hosts.new_host(item)
        if host < 0:
            unplaced.append(item)
        else:
            hosts.place(item, host)
    return Solution(hosts.fillings(), tuple(unplaced))
