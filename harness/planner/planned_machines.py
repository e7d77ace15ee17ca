"""The machines that a plan is made for, as the inventory describes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import PlanError
from harness.planner.constraints import InventoryGroups
from harness.planner.data_folder import DataFolder
from harness.planner.hosts_file import HostsFile


@dataclass(frozen=True)
class PlannedMachines:
    """Arrays and sequences have one entry for each machine, in the order of `names`.

    memory_mib: NaN where it is unknown. hosts: of today, None where they are unknown. rating: of
    a core of the host of today, which demand is measured in. left_out: templates and machines
    that are powered off. off_vcpus, off_memory_mib: of those that are powered off.
    """

    names: tuple[str, ...]
    vcpus: NDArray[np.float64]
    memory_mib: NDArray[np.float64]
    hosts: tuple[str | None, ...]
    groups: InventoryGroups
    rating: NDArray[np.float64]
    left_out: tuple[str, ...]
    off_vcpus: float
    off_memory_mib: float

    def __len__(self) -> int:
        return len(self.names)


def read_machines(folder: DataFolder, hosts: HostsFile) -> PlannedMachines:
    """Raises PlanError when no machine can be planned."""
    rows = folder.machines().to_pylist()
    used = [row for row in rows if row["powered_on"] and not row["template"]]
    off = [row for row in rows if not row["powered_on"] and not row["template"]]
    if not used:
        raise PlanError(
            f"{folder.path} has no machine that is powered on",
            hint="import a trace or an inventory of running machines",
        )
    _check(folder, rows)
    ratings = _ratings(hosts)
    default = hosts.type_of(hosts.today.type).rating if hosts.today else 1.0

    def column(name: str) -> list[str | None]:
        return [row[name] for row in used]

    return PlannedMachines(
        names=tuple(row["vm"] for row in used),
        vcpus=np.array([row["vcpus"] for row in used], np.float64),
        memory_mib=np.array([row["memory_mib"] or np.nan for row in used], np.float64),
        hosts=tuple(column("host")),
        groups=InventoryGroups(*map(column, ("apart", "together", "licence", "pin"))),
        rating=np.array([ratings.get(row["host"], default) for row in used]),
        left_out=tuple(row["vm"] for row in rows if not row["powered_on"] or row["template"]),
        off_vcpus=sum(row["vcpus"] for row in off),
        off_memory_mib=sum(row["memory_mib"] or 0.0 for row in off),
    )


def _check(folder: DataFolder, rows: list[dict[str, Any]]) -> None:
    """Refuse an inventory that `plan import` cannot have written."""
    names = {row["vm"] for row in rows}
    sizes_good = all(
        0 < row["vcpus"] < np.inf and 0 <= (row["memory_mib"] or 0) < np.inf for row in rows
    )
    if len(names) < len(rows) or not sizes_good:
        raise PlanError(
            f"{folder.path} has an inventory with repeated names or impossible sizes",
            hint="import the sources again",
        )


def _ratings(hosts: HostsFile) -> Mapping[str | None, float]:
    """Of the hosts that hosts.toml names."""
    return {name: one.rating for one in hosts.types for name in one.names}
