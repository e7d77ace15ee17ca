"""RVTools: the inventory of a vCenter, as one workbook or as a CSV file for each tab.

It is a view of one moment, so it has sizes but no demand. Names of columns differ between versions:
older ones begin with the tab's name, such as vInfoVMName.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from harness.planner.inventory import Host, Machine
from harness.planner.sources.base import ImportContext, Samples
from harness.planner.sources.delimited import table_rows
from harness.planner.sources.source_file import SourceFile
from harness.planner.sources.workbook import open_workbook, sheet_rows

Row = dict[str, str]

_TAB = re.compile(r"(?:rvtools_)?(?:tab)?(v(?:info|cpu|memory|host))(?![a-z])", re.IGNORECASE)
_TABS = ("vinfo", "vcpu", "vmemory", "vhost")
# By tab and value: the names of its column, in plain form (see _plain), the newest first.
_COLUMNS: dict[str, dict[str, tuple[str, ...]]] = {
    "vinfo": {
        "vm": ("vm", "vmname", "name"),
        "power": ("powerstate",),
        "template": ("template",),
        "cpus": ("cpus",),
        "memory": ("memory", "memorymib", "memorymb"),
        "disk": ("provisionedmib", "provisionedmb", "provisioned", "totaldiskcapacitymib"),
        "cluster": ("cluster",),
        "host": ("host",),
        "uuid": ("vmuuid", "uuid", "vmid"),
    },
    "vcpu": {"vm": ("vm", "vmname", "name"), "cpus": ("cpus",), "uuid": ("vmuuid", "uuid", "vmid")},
    "vmemory": {
        "vm": ("vm", "vmname", "name"),
        "memory": ("sizemib", "sizemb", "size"),
        "uuid": ("vmuuid", "uuid", "vmid"),
    },
    "vhost": {
        "host": ("host", "name"),
        "cluster": ("cluster",),
        "model": ("cpumodel",),
        "mhz": ("speed", "cpumhz"),
        "cores": ("cores", "numcpucores"),
        "ht": ("htactive", "hyperthreadingactive"),
        "memory": ("memory", "memorysize"),
    },
}
_REQUIRED: dict[str, tuple[str, ...]] = {
    "vinfo": ("vm", "power", "cpus", "memory"),
    "vhost": ("host", "cores"),
}
_LARGEST_MIB = 1e8  # a host's memory above this is in bytes, as some versions export it
_HEADER_ROWS = 10


class RVTools:
    name = "rvtools"

    def recognizes(self, file: SourceFile) -> bool:
        if file.kind == "xlsx":
            return True  # no other format is a workbook
        if file.kind != "text":
            return False
        names = {_plain("vinfo", name) for name in file.columns}
        return (
            _is_named_tab(file)
            or {"vm", "powerstate", "template"} <= names
            or ({"vmname", "powerstate", "template"} <= names)
        )

    def read_inventory(self, files: Sequence[SourceFile], context: ImportContext) -> None:
        tabs: dict[str, list[tuple[SourceFile, list[Row]]]] = {tab: [] for tab in _TABS}
        for file in files:
            for tab, rows in _tabs_of(file, context):
                context.count(file, len(rows))
                tabs[tab].append((file, _rename(file, tab, rows)))
        if not tabs["vinfo"]:
            raise files[0].error(
                "has no tab vInfo", "export all tabs, and name the workbook or the folder"
            )
        for file, rows in tabs["vhost"]:
            for row in rows:
                context.inventory.add_host(_host(file, row))
        names = _unique_names(tabs, context)
        for tab in ("vmemory", "vcpu", "vinfo"):  # the last one counts
            for file, rows in tabs[tab]:
                for row in rows:
                    if row.get("vm"):
                        context.inventory.add_machine(_machine(file, row, names))

    def read_samples(
        self, files: Sequence[SourceFile], context: ImportContext
    ) -> Iterator[Samples]:
        return iter(())


def _plain(tab: str, name: str) -> str:
    """A column's name in letters and digits only, without the tab's name before it."""
    short = re.sub(r"[\W_]+", "", name.lower())
    return short.removeprefix(tab) or short


def _is_named_tab(file: SourceFile) -> bool:
    return file.path.name.lower().startswith("rvtools_tab")


def _tabs_of(file: SourceFile, context: ImportContext) -> Iterator[tuple[str, list[Row]]]:
    """The known tabs of a file with their rows, by the file's names of columns."""
    note = "It is a view of one moment: machines have sizes, but no demand."
    if file.kind != "xlsx":
        match = _TAB.search(file.path.name)
        if match or not _is_named_tab(file):
            context.detect(file, note)
            yield (match[1].lower() if match else "vinfo"), list(table_rows(file))
        return
    workbook = open_workbook(file)
    for sheet in workbook.sheet_names:
        if match := _TAB.fullmatch(sheet):
            context.detect(file, note)
            yield match[1].lower(), list(_sheet_table(file, sheet_rows(file, workbook, sheet)))


def _sheet_table(file: SourceFile, rows: Sequence[Sequence[Any]]) -> Iterator[Row]:
    """Rows by the header, which is the first row with more than one text."""
    first = next(
        (
            number
            for number, row in enumerate(rows[:_HEADER_ROWS])
            if sum(isinstance(cell, str) and bool(cell.strip()) for cell in row) > 1
        ),
        len(rows),
    )
    names = [str(cell).strip() for cell in rows[first]] if first < len(rows) else []
    for row in rows[first + 1 :]:
        cells = zip(names, (str(cell).strip() for cell in row), strict=False)
        yield {name: cell for name, cell in cells if name and cell}


def _rename(file: SourceFile, tab: str, rows: list[Row]) -> list[Row]:
    """The rows with the keys of _COLUMNS. Raises PlanError when a required column is missing."""
    present: dict[str, str] = {}
    for row in rows:
        for name in row:
            present.setdefault(_plain(tab, name), name)
    if file.kind == "text":  # empty columns are columns, too
        present = {_plain(tab, name): name for name in reversed(file.columns)}
    found = {
        key: present[known[0]]
        for key, names in _COLUMNS[tab].items()
        if (known := [one for one in names if one in present])
    }
    if rows:
        for key in _REQUIRED.get(tab, ()):
            if key not in found:
                wanted = _COLUMNS[tab][key][0]
                raise file.error(
                    f"tab {tab} has no column {wanted!r}", "export all columns with RVTools"
                )
    return [{key: row[name] for key, name in found.items() if name in row} for row in rows]


def _unique_names(
    tabs: dict[str, list[tuple[SourceFile, list[Row]]]], context: ImportContext
) -> dict[tuple[str, str], str]:
    """A name for each machine, by name and UUID: two machines of a vCenter may share a name."""
    names: dict[tuple[str, str], str] = {}
    times: dict[str, int] = {}
    for _, rows in tabs["vinfo"]:
        for row in rows:
            key = (row.get("vm", ""), row.get("uuid", ""))
            if key in names:
                continue
            times[key[0]] = times.get(key[0], 0) + 1
            names[key] = key[0] if times[key[0]] == 1 else f"{key[0]} ({times[key[0]]})"
            if times[key[0]] > 1:
                context.findings.add("same-name", 1, [names[key]])
    return names


def _machine(file: SourceFile, row: Row, names: dict[tuple[str, str], str]) -> Machine:
    name = names.get((row["vm"], row.get("uuid", "")), row["vm"])
    disk = _number(file, row, "disk")
    power = row.get("power")
    template = row.get("template")
    return Machine(
        name,
        vcpus=_number(file, row, "cpus") or None,
        memory_mib=_number(file, row, "memory"),
        disk_gib=None if disk is None else disk / 1024,
        host=row.get("host"),
        cluster=row.get("cluster"),
        powered_on=None if power is None else power.lower() == "poweredon",
        template=None if template is None else template.lower() in ("true", "1", "yes"),
    )


def _host(file: SourceFile, row: Row) -> Host:
    if not row.get("host"):
        raise file.error("tab vhost has a row without a host", "export it again")
    cores, memory = _number(file, row, "cores"), _number(file, row, "memory")
    if memory is not None and memory > _LARGEST_MIB:
        memory /= 1 << 20
    threads = cores and cores * (2 if row.get("ht", "").lower() in ("true", "1") else 1)
    return Host(
        row["host"],
        cluster=row.get("cluster"),
        model=row.get("model"),
        cores=cores,
        threads=threads if "ht" in row else None,
        mhz=_number(file, row, "mhz"),
        memory_mib=memory,
    )


def _number(file: SourceFile, row: Row, key: str) -> float | None:
    """A whole number, as RVTools writes it: with separators of thousands in some languages."""
    text = row.get(key)
    if text is None:
        return None
    if re.fullmatch(r"\d{1,3}([.,'\u00a0\u202f ]\d{3})+", text):
        text = re.sub(r"\D", "", text)
    try:
        return float(text.replace(",", "."))
    except ValueError as error:
        raise file.error(f"column {key!r}: {text!r} is no number", "export it again") from error
