"""What a plan is made from: machines, their demand, hosts, and what to compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.errors import PlanError
from harness.planner.cases import Case, WhatIf, what_if_case
from harness.planner.data_folder import DataFolder
from harness.planner.hosts_file import HostsFile, HostType
from harness.planner.model import Model
from harness.planner.overhead import Overhead
from harness.planner.planned_machines import read_machines
from harness.planner.reduction import Profile, Window, reduce_trace
from harness.planner.samples import Grid

Use = Literal["any", "existing", "new"]
WEEK = 7.0  # days
_BACKTEST_DAYS = 21.0  # planned on, of a trace that is at least a week longer
_BACKTEST_SHARE = 0.75  # planned on, of a shorter trace


@dataclass(frozen=True)
class SolveOptions:
    """use: which types of hosts may be used. vcpus_per_core: of machines without a trace.

    idle_factor: of the idle power of all hosts. seconds: of the solver, for all cases together.
    """

    burst: float = 1.0
    spare: int = 0
    spare_racks: int = 0
    vcpus_per_core: float = 1.0
    use: Use = "any"
    what_ifs: tuple[WhatIf, ...] = ()
    idle_factor: float = 1.0
    seconds: float = 60.0
    seed: int = 1


@dataclass(frozen=True)
class PlanInputs:
    """What a plan is made from.

    windows, profiles: the whole trace, and for a backtest its first part and the rest.
    """

    folder: DataFolder
    hosts: HostsFile
    options: SolveOptions
    base: Case
    what_ifs: tuple[Case, ...]
    windows: tuple[Window, ...]
    profiles: tuple[Profile, ...]

    @classmethod
    def read(
        cls, folder: DataFolder, hosts: HostsFile, overhead: Overhead, options: SolveOptions
    ) -> PlanInputs:
        table = folder.hosts()
        listed = [] if table is None else table["host"].to_pylist()
        used = folder.machines()["host"].to_pylist()
        hosts = hosts.with_inventory(name for name in (*listed, *used) if name is not None)
        hosts = hosts.scaled_idle(options.idle_factor)
        model = Model(overhead, 1.0, options.burst, options.spare, options.spare_racks)
        base = Case("this plan", model, _choices(hosts, options.use), hosts.site)
        what_ifs = tuple(what_if_case(base, one, hosts) for one in options.what_ifs)
        machines = read_machines(folder, hosts)
        windows = _windows(folder)
        usable = np.max([model.usable(one) for one in base.types], axis=0)
        profiles = reduce_trace(
            folder,
            machines,
            windows,
            tuple(1 / np.maximum(usable, 1e-9)),
            vcpus_per_core=options.vcpus_per_core,
        )
        return cls(folder, hosts, options, base, what_ifs, windows, tuple(profiles))

    @property
    def profile(self) -> Profile:
        """Of the whole trace."""
        return self.profiles[0]

    @property
    def has_trace(self) -> bool:
        return self.folder.description.samples > 0


def _choices(hosts: HostsFile, use: Use) -> tuple[HostType, ...]:
    found = tuple(one for one in hosts.choices if use == "any" or one.exists == (use == "existing"))
    if not found:
        raise PlanError(
            "there is no host to plan with" if use == "any" else f"no type of host is {use}",
            hint="add a type to hosts.toml: with names if its hosts exist, without if not",
        )
    return found


def _windows(folder: DataFolder) -> tuple[Window, ...]:
    """The whole trace; its first part and the rest, if both have a day."""
    grid = Grid.of(folder.description)
    whole = Window(0, grid.count)
    days = _BACKTEST_DAYS if grid.days >= _BACKTEST_DAYS + WEEK else _BACKTEST_SHARE * grid.days
    if not folder.description.samples or min(days, grid.days - days) < 1:
        return (whole,)
    split = round(days * 86_400 / grid.step)
    return whole, Window(0, split), Window(split, grid.count, packed=False)
