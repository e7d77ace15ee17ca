"""Time and memory of `plan import` on a large trace, which a seed defines.

    python -m benchmarks.planner_import --machines 10000 --days 30

The trace has a sample each 5 minutes of CPU, memory, operations of disks, and network. Machines
follow the hours of the day and days off, and most are idle. The inventory has their vCPUs and
memory. The import runs in a process of its own, so that its peak of resident memory is known.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

STEP = 300  # s
DAY = 86_400 // STEP
START = 1_772_409_600  # 2026-03-02 0:00 UTC, a Monday
SIZES = np.array([1, 2, 4, 8, 16])
_SHARES = np.array([0.25, 0.35, 0.25, 0.1, 0.05])
_GROUP = 64  # machines that are generated at once


def write_trace(
    folder: Path, machines: int, days: int, seed: int = 1, form: str = "parquet"
) -> None:
    """Write a trace and an inventory with the planner's own schema into a folder.

    form: "parquet", ordered by machine, or "csv".
    """
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    vcpus = random.choice(SIZES, machines, p=_SHARES).astype(np.float32)
    names = np.array([f"vm{number:06}" for number in range(machines)])
    table = pa.table({"vm": names, "vcpus": vcpus, "memory_mib": vcpus * 4096})
    pq.write_table(table, folder / "machines.parquet")
    parts = _parts(names, vcpus, days, random)
    first = next(parts)
    if form == "csv":
        with pacsv.CSVWriter(folder / "trace.csv", first.schema) as writer:
            writer.write_table(first)
            for part in parts:
                writer.write_table(part)
        return
    with pq.ParquetWriter(folder / "trace.parquet", first.schema, compression="zstd") as parquet:
        parquet.write_table(first)
        for part in parts:
            parquet.write_table(part)


def _parts(
    names: NDArray[np.str_], vcpus: NDArray[np.float32], days: int, random: np.random.Generator
) -> Iterator[pa.Table]:
    times = pa.array((START + STEP * np.arange(days * DAY)) * 1000, pa.timestamp("ms", "UTC"))
    for first in range(0, len(names), _GROUP):
        group = slice(first, first + _GROUP)
        cpu = _demand(vcpus[group], days, random)
        count = len(cpu)
        memory = (
            vcpus[group, None]
            * random.uniform(1000, 3500, (count, 1))
            * (1 + 0.1 * random.random(cpu.shape, np.float32))
        )
        noise = random.random((3, *cpu.shape), np.float32)
        yield pa.table(
            {
                "time": pa.chunked_array([times] * count),
                "vm": pa.array(np.repeat(names[group], len(times))),
                "cpu_cores": cpu.ravel(),
                "memory_mib": memory.astype(np.float32).ravel(),
                "read_iops": (200 * cpu * noise[0]).ravel(),
                "write_iops": (100 * cpu * noise[1]).ravel(),
                "net_mib_s": (5 * cpu * noise[2]).ravel(),
            }
        )


def _demand(
    vcpus: NDArray[np.float32], days: int, random: np.random.Generator
) -> NDArray[np.float32]:
    """Cores of some machines over time: a daily wave, quiet weekends, noise; four of five idle."""
    moment = np.arange(days * DAY)
    hour = 2 * np.pi * (moment % DAY) / DAY
    count = (len(vcpus), 1)
    level = np.where(random.random(count) < 0.8, 0.02, random.uniform(0.1, 0.4, count))
    wave = 1 + 0.8 * np.sin(hour[None, :] + random.normal(-2, 0.5, count))
    weekend = np.where((moment // DAY) % 7 >= 5, 0.4, 1)
    noise = random.gamma(4, 0.25, (len(vcpus), len(moment)))
    demand = vcpus[:, None] * np.clip(level * wave * weekend * noise, 0, 1)
    return demand.astype(np.float32)


def measure(source: Path, data: Path) -> dict[str, float]:
    """Seconds, the peak of resident memory in MiB, and MiB on disk of an import."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "harness", "plan", "import", str(source), "-o", str(data)]
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    size = sum(path.stat().st_size for path in data.rglob("*") if path.is_file())
    samples = json.loads((data / "import.json").read_text())["samples"]
    return {
        "samples": samples,
        "seconds": round(seconds, 1),
        "peak_mib": round(peak),
        "disk_mib": round(size / (1 << 20)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--machines", type=int, default=1000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--form", choices=("parquet", "csv"), default="parquet")
    parser.add_argument("--folder", type=Path, help="keep the trace and the data there")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="planner-import-"))
    source = folder / f"source-{arguments.form}-{arguments.machines}"
    try:
        if not source.exists():
            write_trace(source, arguments.machines, arguments.days, arguments.seed, arguments.form)
        shutil.rmtree(folder / "data", ignore_errors=True)
        print(json.dumps(measure(source, folder / "data")))
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
