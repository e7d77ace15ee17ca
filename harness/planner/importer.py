"""`plan import`: from files of any format to a data folder.

Readers stream samples into buckets of machines on disk. Then each bucket is cleaned in memory and
written. So memory depends on the size of a bucket, not on that of the trace.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harness.errors import PlanError
from harness.planner.buckets import Rows, SampleBuckets
from harness.planner.cleaning import CleanRows, clean, no_step, other_steps, sort_rows, usual_step
from harness.planner.data_folder import NewDataFolder, new_data_folder
from harness.planner.inventory import Inventory, Machine
from harness.planner.sources import assign_readers
from harness.planner.sources.base import COLUMNS, ImportContext, ImportOptions, Reader
from harness.planner.sources.source_file import SourceFile, find_files, readable
from harness.planner.trace import BUCKETS, DATA_VERSION, TRACE, Import, Source

HIGHEST_SHARE = 1.2  # of the machine's vCPUs: more is an error of units
_UNIT_ERROR = 100  # times the allocated memory: more is an error of units
_WEEK = 7 * 86_400
_WORKERS = 2  # a bucket at a time each
_CPUS = (COLUMNS.index("cpu_cores"), COLUMNS.index("cpu_cores_max"))
_MEMORY = COLUMNS.index("memory_mib")


def import_data(
    sources: Sequence[str], out: Path, options: ImportOptions, *, replace: bool = False
) -> Import:
    """Import files and folders into a new data folder. Return its description.

    Raises PlanError, and writes nothing, when a source cannot be used.
    """
    files = find_files(sources)
    groups = assign_readers(files, options.format)
    context = ImportContext(options)
    with new_data_folder(out, replace=replace) as folder:
        for reader, group in groups:
            context.format = reader.name
            reader.read_inventory(group, context)
        with SampleBuckets(folder.scratch) as buckets:
            for reader, group in groups:
                context.format = reader.name
                for samples in reader.read_samples(group, context):
                    buckets.add(samples)
            buckets.flush()
            trace = _Trace(buckets, context, folder)
            trace.write()
        description = _describe(context, trace, groups)
        folder.write_inventory(context.inventory.machine_table(), context.inventory.host_table())
        folder.write_description(description)
    return description


@dataclass
class _Period:
    """Over all machines. cpu: by machine, the highest demand."""

    cpu: NDArray[np.float32]
    samples: int = 0
    start: int = 2**62
    end: int = 0
    over: set[str] = field(default_factory=set)  # machines with more memory than allocated


class _Trace:
    """Cleans and writes all buckets."""

    def __init__(
        self, buckets: SampleBuckets, context: ImportContext, folder: NewDataFolder
    ) -> None:
        self._buckets, self._folder = buckets, folder
        self._inventory, self._findings = context.inventory, context.findings
        self._averaged = context.options.step is not None
        self.step = round((context.options.step or 0) * 1000)
        self.names = buckets.names
        self.period = _Period(np.zeros(len(self.names), np.float32))
        self._allocated = self._allocations()
        self._lock = threading.Lock()

    def write(self) -> None:
        """Raises PlanError for samples that contradict the inventory, and for mixed steps."""
        if not self._buckets.rows:
            return
        if not self._averaged:
            self.step = self._find_step()
        with ThreadPoolExecutor(_WORKERS) as pool:
            for _ in pool.map(self._write_bucket, range(BUCKETS)):
                pass

    def _allocations(self) -> NDArray[np.float32]:
        """vCPUs and MiB of each machine; infinite where they are unknown."""
        machines = [self._inventory.machines.get(name) for name in self.names]
        return np.array(
            [
                ((one and one.vcpus) or math.inf, (one and one.memory_mib) or math.inf)
                for one in machines
            ],
            dtype=np.float32,
        ).reshape(-1, 2)

    def _find_step(self) -> int:
        for bucket in range(BUCKETS):
            if step := usual_step(sort_rows(self._buckets.read(bucket))):
                return step
        raise no_step()

    def _write_bucket(self, bucket: int) -> None:
        rows = sort_rows(self._buckets.read(bucket))
        self._buckets.remove(bucket)
        if not len(rows):
            return
        self._check_steps(rows)
        self._check_demand(rows)
        cleaned = clean(rows, self.step, averaged=self._averaged)
        self._folder.write_trace(bucket, self._table(cleaned.rows))
        with self._lock:
            self._record(cleaned)

    def _check_steps(self, rows: Rows) -> None:
        others = other_steps(rows, self.step, averaged=self._averaged)
        if others:
            number, step = max(others.items(), key=lambda item: item[1])
            common = max(self.step, step) // 1000
            raise PlanError(
                f"column time: machine {self.names[number]} has a sample each {step / 1000:g} s, "
                f"others each {self.step / 1000:g} s",
                hint=f"export all with one step, or average them with --step={common}",
            )

    def _check_demand(self, rows: Rows) -> None:
        """Compare demand with what the machines have."""
        cpu, memory = _highest_cpu(rows), rows["values"][:, _MEMORY]
        vcpus, mib = self._allocated[rows["vm"]].T
        with np.errstate(invalid="ignore"):
            above = cpu > vcpus
            much_above = cpu > HIGHEST_SHARE * vcpus
            unit_error = memory > _UNIT_ERROR * mib
            over = memory > mib
        if much_above.any():
            place = int(much_above.argmax())
            name = self.names[rows["vm"][place]]
            raise PlanError(
                f"the CPU demand of machine {name} is {cpu[place]:.4g} cores, which is "
                f"{100 * cpu[place] / vcpus[place]:.0f} % of its {vcpus[place]:g} vCPUs",
                hint="correct the unit of the CPU column, or vcpus in the inventory; "
                "up to 120 % is accepted",
            )
        if unit_error.any():
            place = int(unit_error.argmax())
            name = self.names[rows["vm"][place]]
            raise PlanError(
                f"memory_mib of machine {name} is {memory[place]:.4g}, and it has "
                f"{mib[place]:.4g} MiB",
                hint="correct the unit of the memory column, or memory_mib in the inventory",
            )
        with self._lock:
            self._findings.add("above-vcpus", int(above.sum()), self._named(rows["vm"][above]))
            self.period.over |= set(self._named(rows["vm"][over]))

    def _table(self, rows: Rows) -> pa.Table:
        machines, codes = np.unique(rows["vm"], return_inverse=True)
        vm = pa.DictionaryArray.from_arrays(
            pa.array(codes.astype(np.int32)), [self.names[number] for number in machines]
        )
        values = [
            pa.array(np.ascontiguousarray(rows["values"][:, place]), from_pandas=True)
            for place in range(len(COLUMNS))
        ]
        time = pa.array(np.ascontiguousarray(rows["time"])).cast(TRACE.field("time").type)
        return pa.Table.from_arrays([time, vm, *values], schema=TRACE)

    def _record(self, cleaned: CleanRows) -> None:
        rows, period, findings = cleaned.rows, self.period, self._findings
        period.samples += len(rows)
        period.start = min(period.start, int(rows["time"].min()))
        period.end = max(period.end, int(rows["time"].max()) + self.step)
        machines, first = np.unique(rows["vm"], return_index=True)
        period.cpu[machines] = np.fmax.reduceat(_highest_cpu(rows), first)
        findings.add("duplicate", cleaned.duplicates)
        findings.add("carried", cleaned.carried)
        findings.add("gap", cleaned.gaps, self._named(cleaned.gap_machines))
        missing = self._named(cleaned.missing_machines)
        findings.add("missing-values", cleaned.missing, missing)
        code = "resampled" if self._averaged else "clock-drift"
        findings.add(code, cleaned.merged, step=self.step / 1000)

    def _named(self, numbers: NDArray[np.int32]) -> list[str]:
        return [self.names[number] for number in np.unique(numbers)]


def _highest_cpu(rows: Rows) -> NDArray[np.float32]:
    """Of each row the demand in cores: the highest of the interval, where it is known."""
    mean, highest = (rows["values"][:, place] for place in _CPUS)
    cpu: NDArray[np.float32] = np.fmax(mean, highest)
    return cpu


def _describe(
    context: ImportContext, trace: _Trace, groups: Sequence[tuple[Reader, Sequence[SourceFile]]]
) -> Import:
    """Complete the inventory, add findings about it, and describe the import."""
    inventory, findings, period = context.inventory, context.findings, trace.period
    _add_missing_machines(inventory, trace, context)
    inventory.report(findings)
    traced = set(trace.names)
    without = [
        one.vm
        for one in inventory.machines.values()
        if one.vm not in traced and one.powered_on is not False and not one.template
    ]
    findings.add("without-trace", len(without), without)
    findings.add("memory-above-allocation", len(period.over), sorted(period.over))
    seconds = (period.end - period.start) / 1000 if period.samples else 0.0
    if 0 < seconds < _WEEK:
        findings.add("short-trace", len(traced), days=seconds / 86_400)
    return Import(
        version=DATA_VERSION,
        start=period.start / 1000 if period.samples else 0.0,
        end=period.end / 1000,
        step=trace.step / 1000,
        samples=period.samples,
        machines=len(inventory.machines),
        with_trace=len(traced),
        sources=tuple(_sources(context, groups)),
        findings=findings.findings(),
    )


def _add_missing_machines(inventory: Inventory, trace: _Trace, context: ImportContext) -> None:
    """Give each machine vCPUs. Raises PlanError for one with neither vCPUs nor samples."""
    unknown = []
    for number, name in enumerate(trace.names):
        if inventory.vcpus(name) is None:
            unknown.append(name)
            highest = float(np.nan_to_num(trace.period.cpu[number]))
            inventory.complete_machine(Machine(name, vcpus=max(1.0, math.ceil(highest - 1e-3))))
    context.findings.add("without-inventory", len(unknown), unknown)
    if not inventory.machines:
        raise PlanError("the sources have no machine", hint="name files with samples or machines")
    for machine in inventory.machines.values():
        if machine.vcpus is None:
            raise PlanError(
                f"column vcpus: machine {machine.vm} has neither vCPUs nor samples",
                hint="add its vcpus to the inventory, or remove the machine",
            )


def _sources(
    context: ImportContext, groups: Sequence[tuple[Reader, Sequence[SourceFile]]]
) -> list[Source]:
    """One entry for each source and format, in the order of the formats."""
    sources = []
    for reader, files in groups:
        for argument in dict.fromkeys(file.argument for file in files):
            key = (argument, reader.name)
            paths = [file.path for file in files if file.argument == argument]
            sources.append(
                Source(
                    argument,
                    reader.name,
                    _digest(Path(argument), paths),
                    context.rows.get(key, 0),
                    tuple(context.detected.get(key, ())),
                )
            )
    return sources


def _digest(source: Path, paths: Sequence[Path]) -> str:
    """The SHA-256 of a file; of a folder, that of the lines `name digest` of its files."""
    digests = []
    for path in paths:
        with readable(path), path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    if paths == [source]:
        return digests[0]
    lines = [
        f"{path.relative_to(source)} {digest}\n"
        for path, digest in zip(paths, digests, strict=True)
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
