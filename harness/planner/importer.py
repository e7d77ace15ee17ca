"""`plan import`: from files of any format to a data folder.

Readers stream samples into buckets of machines on disk. Then each bucket is cleaned in memory and
written. So memory depends on the size of a bucket, not on that of the trace.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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

Numbers = NDArray[np.int32]  # of machines, see SampleBuckets.names


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
class _BucketReport:
    """What one bucket had. Machines are given by their numbers, and may repeat.

    start, end: ms. machines: all; highest_cpu: of each. above: of samples with more CPU than vCPUs.
    over: of samples with more memory than allocated.
    """

    cleaned: CleanRows
    samples: int
    start: int
    end: int
    machines: Numbers
    highest_cpu: NDArray[np.float32]
    above: Numbers
    over: Numbers


class _Trace:
    """Cleans and writes all buckets. samples, start, end (ms), highest_cpu: of all of them."""

    def __init__(
        self, buckets: SampleBuckets, context: ImportContext, folder: NewDataFolder
    ) -> None:
        self._buckets, self._folder = buckets, folder
        self._findings = context.findings
        self._averaged = context.options.step is not None
        self.step = round((context.options.step or 0) * 1000)
        self.names = buckets.names
        self.samples, self.start, self.end = 0, 0, 0
        self.highest_cpu = np.zeros(len(self.names), np.float32)
        self.over: set[str] = set()  # machines with more memory than allocated
        known = context.inventory.machines
        machines = [known.get(name, Machine(name)) for name in self.names]
        # vCPUs and MiB; infinite where they are unknown
        self._vcpus = _or_infinite(one.vcpus for one in machines)
        self._mib = _or_infinite(one.memory_mib for one in machines)

    def write(self) -> None:
        """Raises PlanError for samples that contradict the inventory, and for mixed steps."""
        if not self._buckets.rows:
            return
        if not self._averaged:
            self.step = self._find_step()
        with ThreadPoolExecutor(_WORKERS) as pool:
            # In the order of the buckets, so that the same sources give the same findings.
            for report in pool.map(self._write_bucket, range(BUCKETS)):
                if report is not None:
                    self._record(report)

    def _find_step(self) -> int:
        for bucket in range(BUCKETS):
            if step := usual_step(sort_rows(self._buckets.read(bucket))):
                return step
        raise no_step()

    def _write_bucket(self, bucket: int) -> _BucketReport | None:
        rows = sort_rows(self._buckets.read(bucket))
        self._buckets.remove(bucket)
        if not len(rows):
            return None
        self._check_steps(rows)
        above, over = self._check_demand(rows)
        cleaned = clean(rows, self.step, averaged=self._averaged)
        rows = cleaned.rows
        self._folder.write_trace(bucket, self._table(rows))
        machines, first = np.unique(rows["vm"], return_index=True)
        highest_cpu = np.fmax.reduceat(_highest_cpu(rows), first)
        cleaned.rows = rows[:0].copy()  # a report is small
        start, end = int(rows["time"].min()), int(rows["time"].max()) + self.step
        return _BucketReport(cleaned, len(rows), start, end, machines, highest_cpu, above, over)

    def _check_steps(self, rows: Rows) -> None:
        others = other_steps(rows, self.step, averaged=self._averaged)
        if others:
            number, step = max(others.items(), key=lambda item: item[1])
            common = max(self.step, step) / 1000
            raise PlanError(
                f"column time: machine {self.names[number]} has a sample each {step / 1000:g} s, "
                f"others each {self.step / 1000:g} s",
                hint=f"export all with one step, or average them with --step={common:g}",
            )

    def _check_demand(self, rows: Rows) -> tuple[Numbers, Numbers]:
        """Machines of samples above their vCPUs and above their memory. Raises PlanError."""
        cpu, memory = _highest_cpu(rows), rows["values"][:, _MEMORY]
        vcpus, mib = self._vcpus[rows["vm"]], self._mib[rows["vm"]]
        if (bad := cpu > HIGHEST_SHARE * vcpus).any():
            place = int(bad.argmax())
            raise PlanError(
                f"the CPU demand of machine {self.names[rows['vm'][place]]} is {cpu[place]:.4g} "
                f"cores, which is {100 * cpu[place] / vcpus[place]:.0f} % of its "
                f"{vcpus[place]:g} vCPUs",
                hint="correct the unit of the CPU column, or vcpus in the inventory; "
                "up to 120 % is accepted",
            )
        if (bad := memory > _UNIT_ERROR * mib).any():
            place = int(bad.argmax())
            raise PlanError(
                f"memory_mib of machine {self.names[rows['vm'][place]]} is {memory[place]:.4g}, "
                f"and it has {mib[place]:.4g} MiB",
                hint="correct the unit of the memory column, or memory_mib in the inventory",
            )
        return rows["vm"][cpu > vcpus], rows["vm"][memory > mib]

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

    def _record(self, report: _BucketReport) -> None:
        cleaned, findings = report.cleaned, self._findings
        self.start = min(self.start, report.start) if self.samples else report.start
        self.end = max(self.end, report.end)
        self.samples += report.samples
        self.highest_cpu[report.machines] = report.highest_cpu
        self.over |= set(self._named(report.over))
        findings.add("above-vcpus", len(report.above), self._named(report.above))
        findings.add("duplicate", cleaned.duplicates)
        findings.add("carried", cleaned.carried)
        findings.add("gap", cleaned.gaps, self._named(cleaned.gap_machines))
        missing = self._named(cleaned.missing_machines)
        findings.add("missing-values", cleaned.missing, missing)
        code = "resampled" if self._averaged else "clock-drift"
        findings.add(code, cleaned.merged, step=self.step / 1000)

    def _named(self, numbers: Numbers) -> list[str]:
        return [self.names[number] for number in np.unique(numbers)]


def _or_infinite(values: Iterable[float | None]) -> NDArray[np.float32]:
    return np.array([value or math.inf for value in values], dtype=np.float32)


def _highest_cpu(rows: Rows) -> NDArray[np.float32]:
    """Of each row the demand in cores: the highest of the interval, where it is known."""
    mean, highest = (rows["values"][:, place] for place in _CPUS)
    cpu: NDArray[np.float32] = np.fmax(mean, highest)
    return cpu


def _describe(
    context: ImportContext, trace: _Trace, groups: Sequence[tuple[Reader, Sequence[SourceFile]]]
) -> Import:
    """Complete the inventory, add findings about it, and describe the import."""
    inventory, findings = context.inventory, context.findings
    _add_missing_machines(inventory, trace, context)
    inventory.report(findings)
    traced = set(trace.names)
    without = [
        one.vm
        for one in inventory.machines.values()
        if one.vm not in traced and one.powered_on is not False and not one.template
    ]
    findings.add("without-trace", len(without), without)
    findings.add("memory-above-allocation", len(trace.over), sorted(trace.over))
    seconds = (trace.end - trace.start) / 1000
    if 0 < seconds < _WEEK:
        findings.add("short-trace", len(traced), days=seconds / 86_400)
    return Import(
        version=DATA_VERSION,
        start=trace.start / 1000,
        end=trace.end / 1000,
        step=trace.step / 1000,
        samples=trace.samples,
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
            highest = float(np.nan_to_num(trace.highest_cpu[number]))
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
