"""Columns of the planner's own schema, and the units that their names may have instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from harness.planner.sources.source_file import SourceFile
from harness.planner.trace import HOSTS, MACHINES

MIB = float(1 << 20)

Scale = float | Literal["percent", "mhz"]

_BYTES: dict[str, Scale] = {
    "mib": 1.0,
    "bytes": 1 / MIB,
    "kib": 1 / 1024,
    "gib": 1024.0,
    "tib": 1024.0 * 1024,
    "kb": 1e3 / MIB,
    "mb": 1e6 / MIB,
    "gb": 1e9 / MIB,
    "tb": 1e12 / MIB,
}
_CPU: dict[str, Scale] = {"cores": 1.0, "percent": "percent", "mhz": "mhz"}
_RATES: dict[str, Scale] = {
    **{f"{unit}_s": scale for unit, scale in _BYTES.items()},
    "mbit_s": 1e6 / 8 / MIB,
    "gbit_s": 1e9 / 8 / MIB,
}
# For each quantity that has a unit in its name: the column of the schema, and its units.
_TRACE: Mapping[str, tuple[str, dict[str, Scale]]] = {
    "cpu": ("cpu_cores", _CPU),
    "memory": ("memory_mib", _BYTES),
    "read": ("read_iops", {"iops": 1.0}),
    "write": ("write_iops", {"iops": 1.0}),
    "net": ("net_mib_s", _RATES),
}
_GIB: dict[str, Scale] = {unit: float(scale) / 1024 for unit, scale in _BYTES.items()}
_TABLE: Mapping[str, tuple[str, dict[str, Scale]]] = {
    "memory": ("memory_mib", _BYTES),
    "disk": ("disk_gib", _GIB),
}
_TIME_NAME = re.compile(r"(time|timestamp)(_(s|ms|us|µs|ns|utc))?")
VM_NAMES = ("vm", "machine", "vm_name")
Table = Literal["trace", "machines", "hosts"]


@dataclass(frozen=True)
class Column:
    """A column of a file. target: that of the schema. scale: what its values are multiplied by."""

    name: str
    target: str
    scale: Scale = 1.0

    @property
    def note(self) -> str:
        """A sentence, where the file's unit is not the schema's."""
        if self.scale == 1.0:
            return ""
        if self.scale == "percent":
            return f"{self.name} is a share of the machine's vCPUs in percent."
        return f"{self.name} was converted into {self.target}."


def plain(name: str) -> str:
    """A name in lower case, with its unit behind an underscore: `Memory [MiB]` is memory_mib."""
    return re.sub(r"\W+", "_", name.lower().replace("%", " percent ")).strip("_")


def table_of(columns: tuple[str, ...]) -> Table | None:
    """Which table of the schema columns belong to, if any."""
    names = set(map(plain, columns))
    if names & set(VM_NAMES):
        if any(map(_TIME_NAME.fullmatch, names)):
            return "trace"
        return "machines" if "vcpus" in names else None
    return "hosts" if {"host", "cores"} <= names else None


def trace_columns(file: SourceFile) -> tuple[Column, Column, list[Column]]:
    """The columns of time, of names, and of values. Raises PlanError for any other column."""
    time, vm, values = None, None, []
    for name in file.columns:
        short = plain(name)
        if _TIME_NAME.fullmatch(short) and time is None:
            time = Column(name, "time")
        elif short in VM_NAMES and vm is None:
            vm = Column(name, "vm")
        else:
            values.append(_value_column(file, name))
    _check_targets(file, values)
    if time is None or vm is None:
        raise file.error("has no columns time and vm", "name the columns as in the manual")
    if not values:
        raise file.error("has no demand", "add a column cpu_cores, cpu_percent or cpu_mhz")
    return time, vm, values


def table_columns(file: SourceFile, table: Table) -> list[Column]:
    """The columns of an inventory or of hosts. Raises PlanError for any other column."""
    known = {one: one for one in (MACHINES if table == "machines" else HOSTS).names}
    if table == "machines":
        known |= dict.fromkeys(VM_NAMES, "vm") | {"license": "licence"}
    columns = []
    for name in file.columns:
        short = plain(name)
        if short in known:
            columns.append(Column(name, known[short]))
        else:
            columns.append(_with_unit(file, name, _TABLE, [*known]))
    _check_targets(file, columns)
    return columns


def _value_column(file: SourceFile, name: str) -> Column:
    short = plain(name)
    highest = re.fullmatch(r"cpu_(?:max_(\w+)|(\w+)_max)", short)
    if highest:
        column = _with_unit(file, name, _TRACE, [], f"cpu_{highest[1] or highest[2]}")
        return Column(name, "cpu_cores_max", column.scale)
    names = [f"{stem}_{unit}" for stem, (_, units) in _TRACE.items() for unit in units]
    return _with_unit(file, name, _TRACE, names)


def _with_unit(
    file: SourceFile,
    name: str,
    quantities: Mapping[str, tuple[str, dict[str, Scale]]],
    names: list[str],
    short: str = "",
) -> Column:
    short = short or plain(name)
    stem, _, unit = short.partition("_")
    if stem not in quantities:
        near = difflib.get_close_matches(short, names, 1)
        advice = f"rename it to {near[0]}" if near else "remove it"
        raise file.error(f"column {name!r} is unknown", f"{advice}, or name the --format")
    target, units = quantities[stem]
    if unit not in units:
        examples = ", ".join(f"{stem}_{one}" for one in list(units)[:4])
        reason = f"has the unknown unit {unit!r}" if unit else "has no unit"
        raise file.error(f"column {name!r} {reason}", f"rename it to one of {examples}")
    return Column(name, target, units[unit])


def _check_targets(file: SourceFile, columns: list[Column]) -> None:
    seen: dict[str, str] = {}
    for column in columns:
        if column.target in seen:
            raise file.error(
                f"columns {seen[column.target]!r} and {column.name!r} both hold {column.target}",
                "remove one of them",
            )
        seen[column.target] = column.name
