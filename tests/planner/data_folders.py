"""Small data folders for tests. No figure here was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from harness.planner.data_folder import DataFolder, new_data_folder
from harness.planner.energy import PowerCurve
from harness.planner.hosts_file import HostType
from harness.planner.trace import BUCKETS, DATA_VERSION, HOSTS, MACHINES, TRACE, Import

MONDAY = 1_767_571_200.0  # 5 January 2026, 0:00 UTC
STEP = 300.0
COLUMNS = ("cpu_cores", "memory_mib", "read_iops", "write_iops", "net_mib_s", "cpu_cores_max")
HOST = HostType(
    name="new",
    cores=10.0,
    threads=20.0,
    memory_mib=100_000.0,
    reserve_mib=0.0,
    curve=PowerCurve(tuple(100.0 + 20 * step for step in range(11)), "given"),
    iops=10_000.0,
    network=1000.0,
)


@dataclass(frozen=True)
class Machine:
    """One machine. values: by column, an array of the samples; NaN is null. times: of the samples,
    in moments; all moments without them."""

    name: str
    values: Mapping[str, Any] = field(default_factory=dict)
    times: Sequence[float] | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


def steady(name: str, cpu: float, moments: int, memory: float = 1000.0, **about: Any) -> Machine:
    """A machine that needs the same at all moments."""
    values = {"cpu_cores": np.full(moments, cpu), "memory_mib": np.full(moments, memory)}
    return Machine(name, values, about=about)


def write_data(
    path: Path,
    machines: Sequence[Machine],
    *,
    moments: int,
    step: float = STEP,
    start: float = MONDAY,
    hosts: Sequence[str] = (),
) -> DataFolder:
    """Write a data folder as `plan import` does."""
    samples = 0
    with new_data_folder(path) as folder:
        for bucket in range(BUCKETS):
            parts = [_table(one, step, start) for one in machines[bucket::BUCKETS] if one.values]
            if parts:
                table = pa.concat_tables(parts).unify_dictionaries()
                samples += table.num_rows
                folder.write_trace(bucket, table)
        rows = [{**_ABOUT, "vm": one.name, **one.about} for one in machines]
        inventory = pa.Table.from_pylist(rows, schema=MACHINES)
        named = pa.Table.from_pylist([{"host": host} for host in hosts], schema=HOSTS)
        folder.write_inventory(inventory, named)
        end = start + moments * step if samples else 0.0
        traced = sum(bool(one.values) for one in machines)
        folder.write_description(
            Import(
                DATA_VERSION, start if samples else 0.0, end, step, samples, len(machines), traced,
                (), (),
            )
        )  # fmt: skip
    return DataFolder(path)


_ABOUT = {"vcpus": 4.0, "memory_mib": 4096.0, "powered_on": True, "template": False}


def _table(machine: Machine, step: float, start: float) -> pa.Table:
    count = len(next(iter(machine.values.values())))
    moments = np.arange(count) if machine.times is None else np.asarray(machine.times)
    times = np.rint((start + moments * step) * 1000).astype(np.int64)
    columns: dict[str, Any] = {
        "time": pa.array(times, pa.timestamp("ms", tz="UTC")),
        "vm": pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), [machine.name]),
    }
    for name in COLUMNS:
        values = machine.values.get(name, np.full(count, math.nan))
        columns[name] = pa.array(np.asarray(values, np.float32), pa.float32(), from_pandas=True)
    return pa.table(columns).select(TRACE.names)
