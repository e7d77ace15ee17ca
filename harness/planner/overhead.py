"""What a hypervisor costs a host, and how busy a host may be: measured by a consolidation run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from harness.errors import PlanError
from harness.planner.plan import Assumption
from harness.results.schema import RunFacts, decode_parameters
from harness.results.selection import select_runs
from harness.results.store import load

ASSUMED_UTILIZATION = 0.7
_VMM_MIB = 64.0  # of the process that runs a machine
_PREFIX = "consolidation."
_KINDS = ("memory.private", "memory.shared", "memory.merged")


@dataclass(frozen=True)
class Overhead:
    """busy = base + guest * machines + demand * (CPU demand of the machines), in CPUs.

    memory_mib: of a machine, beside its own memory. utilization: the target share of a host's CPU
    capacity, from 0 to 1. banners: what a reader must know first.
    """

    base: float = 0.0
    guest: float = 0.0
    demand: float = 1.0
    memory_mib: float = _VMM_MIB
    utilization: float = ASSUMED_UTILIZATION
    assumptions: tuple[Assumption, ...] = ()
    banners: tuple[str, ...] = ()

    def with_utilization(self, utilization: float, source: str) -> Overhead:
        """With another target utilization. source: who says so."""
        others = tuple(one for one in self.assumptions if one.name != _UTILIZATION)
        row = _utilization_row(utilization, source)
        banners = tuple(one for one in self.banners if one != ASSUMED_BANNER)
        return replace(self, utilization=utilization, assumptions=(row, *others), banners=banners)


_UTILIZATION = "target utilization of CPUs"
ASSUMED_BANNER = (
    f"The target utilization of {ASSUMED_UTILIZATION:.0%} is assumed. "
    "Name a consolidation run with --knee to use a measured one."
)
_VMM_ROW = Assumption("memory of the process that runs a machine", f"{_VMM_MIB:g} MiB", "assumed")


def assumed_overhead() -> Overhead:
    """What is assumed where no run measured it."""
    return Overhead(
        assumptions=(
            _utilization_row(ASSUMED_UTILIZATION, "assumed"),
            Assumption("CPU of the hypervisor", "within the target utilization", "assumed"),
            _VMM_ROW,
        ),
        banners=(ASSUMED_BANNER,),
    )


def measured_overhead(
    store: Path, selector: str, hypervisor: str | None, *, force: bool = False
) -> Overhead:
    """The overhead and the knee that a run measured for one hypervisor.

    selector: as of select_runs. hypervisor: needed if the run measured more than one. force: also
    use an emulated run. Raises PlanError for a run that cannot be used, ResultError for one that
    cannot be read.
    """
    selection = select_runs(store, selector)
    if len(selection.files) != 1:
        raise PlanError(
            f"--knee {selector!r} matches {len(selection.files)} runs: "
            f"{', '.join(selection.names[:5])}",
            hint="name one of them",
        )
    facts, frame = load(selection.files[0])
    name = f"run {selection.names[0]}"
    if facts.get("emulated", False) and not force:
        raise PlanError(
            f"{name} was measured on an emulated host, which says nothing about hardware",
            hint="name a run on hardware, or add --force to see what the plan would be",
        )
    samples = _of_hypervisor(frame, name, hypervisor)
    overhead = _measured(samples, name)
    return _with_banner(overhead, facts, name)


def _of_hypervisor(frame: pd.DataFrame, name: str, hypervisor: str | None) -> pd.DataFrame:
    """The samples of knee and fit of one hypervisor, without those of containers."""
    own = frame[frame["metric"].str.startswith((f"{_PREFIX}knee", f"{_PREFIX}fit."))]
    names = sorted(set(own["hypervisor"]) - {"native"}) or sorted(set(own["hypervisor"]))
    if not names:
        raise PlanError(
            f"{name} measured no knee",
            hint="name a run of `pytest suites/consolidation -m long`",
        )
    if hypervisor is None and len(names) > 1:
        raise PlanError(
            f"{name} measured {len(names)} hypervisors: {', '.join(names)}",
            hint="name one of them with --hypervisor",
        )
    chosen = hypervisor or names[0]
    if chosen not in set(own["hypervisor"]):
        raise PlanError(
            f"{name} has no knee of the hypervisor {chosen!r}", hint=f"use {', '.join(names)}"
        )
    return frame[frame["hypervisor"] == chosen]


def _measured(samples: pd.DataFrame, name: str) -> Overhead:
    by_metric = samples.groupby("metric")["value"].median()

    def value(metric: str) -> float | None:
        found = by_metric.get(_PREFIX + metric)
        return None if found is None else float(found)

    overhead = assumed_overhead()
    utilization = value("knee.utilization")
    if utilization is not None:
        if not 1 <= utilization <= 100:
            raise PlanError(
                f"{name} has a utilization of {utilization:g} % at the knee",
                hint="name a run with a complete search",
            )
        overhead = overhead.with_utilization(utilization / 100, f"{name}: busy at the knee")
    parts = [value(f"fit.{part}") for part in ("base", "guest", "demand")]
    kept = [one for one in overhead.assumptions if one.name == _UTILIZATION]
    if None not in parts:
        base, guest, demand = (float(one or 0) for one in parts)
        text = f"{base:.3g} + {guest:.3g} a machine + {demand:.3g} x demand, in CPUs"
        kept.append(Assumption("CPU of the hypervisor", text, f"{name}: fit"))
        overhead = replace(overhead, base=base, guest=guest, demand=demand)
    else:
        kept += [one for one in overhead.assumptions if one.name == "CPU of the hypervisor"]
    kept.append(_VMM_ROW)
    kernel = _kernel_memory(samples)
    if kernel is not None:
        kept.append(Assumption("the kernel's memory for a machine", f"{kernel:.1f} MiB", name))
    return replace(overhead, memory_mib=_VMM_MIB + (kernel or 0.0), assumptions=tuple(kept))


def _kernel_memory(samples: pd.DataFrame) -> float | None:
    """MiB that a guest's cgroup uses and no process of it has mapped: page tables, queues."""
    metrics = ("memory", *_KINDS)
    memory = samples[samples["metric"].isin([_PREFIX + one for one in metrics])]
    if memory.empty:
        return None
    parameters = memory["parameters"].map(decode_parameters)
    table = memory.assign(
        guest=parameters.map(lambda one: one.get("guest", "")),
        load=parameters.map(lambda one: one.get("load", "")),
    ).pivot_table(
        index=["test", "batch", "guest", "load"], columns="metric", values="value", aggfunc="mean"
    )
    columns = [_PREFIX + one for one in metrics]
    if not set(columns) <= set(table.columns):
        return None
    table = table.dropna(subset=columns)
    if table.empty:
        return None
    unmapped = table[columns[0]] - table[columns[1:]].sum(axis=1)
    return max(0.0, float(unmapped.median()))


def _with_banner(overhead: Overhead, facts: RunFacts, name: str) -> Overhead:
    if not facts.get("emulated", False):
        return overhead
    banner = f"{name} was measured on an emulated host. Do not buy hardware by this plan."
    return replace(overhead, banners=(f"{banner[0].upper()}{banner[1:]}", *overhead.banners))


def _utilization_row(utilization: float, source: str) -> Assumption:
    return Assumption(_UTILIZATION, f"{utilization:.0%}", source)
