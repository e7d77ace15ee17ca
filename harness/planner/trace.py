"""The data that a plan is made from: demand over time, the inventory, and what is wrong with both.

`plan import` writes a data folder, and all other commands read it:

    trace/NN.parquet    up to BUCKETS files of samples; all samples of a machine are in one file,
                        sorted by machine and time, at most one for each step
    machines.parquet    the inventory: one row for each machine
    hosts.parquet       the hosts of today, where a source names them
    import.json         Import: sources, step, findings
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

BUCKETS = 64
DATA_VERSION = 1

# What a host has and a machine needs, in the order of all arrays of the planner.
METRICS = ("cpu", "memory", "iops", "network")
UNITS = {"cpu": "cores", "memory": "MiB", "iops": "operations/s", "network": "MiB/s"}

# A null is a value that nobody measured. A machine that is powered off has no samples.
TRACE = pa.schema(
    [
        # start of the interval, at a multiple of the step since the epoch
        pa.field("time", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("vm", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("cpu_cores", pa.float32()),  # mean of the interval
        pa.field("memory_mib", pa.float32()),
        pa.field("read_iops", pa.float32()),
        pa.field("write_iops", pa.float32()),
        pa.field("net_mib_s", pa.float32()),  # received and sent
        pa.field("cpu_cores_max", pa.float32()),  # highest of the interval, where a source has it
    ]
)
# A null in `host`, `cluster`, ... means that no source says so. `apart` and `together` name groups.
MACHINES = pa.schema(
    [
        pa.field("vm", pa.string(), nullable=False),
        pa.field("vcpus", pa.float32(), nullable=False),
        pa.field("memory_mib", pa.float32()),
        pa.field("disk_gib", pa.float32()),
        pa.field("host", pa.string()),
        pa.field("cluster", pa.string()),
        pa.field("apart", pa.string()),
        pa.field("together", pa.string()),
        pa.field("licence", pa.string()),
        pa.field("pin", pa.string()),  # the name of the only host that may run it
        pa.field("powered_on", pa.bool_(), nullable=False),
        pa.field("template", pa.bool_(), nullable=False),
    ]
)
HOSTS = pa.schema(
    [
        pa.field("host", pa.string(), nullable=False),
        pa.field("cluster", pa.string()),
        pa.field("model", pa.string()),
        pa.field("cores", pa.float32()),
        pa.field("threads", pa.float32()),
        pa.field("mhz", pa.float32()),
        pa.field("memory_mib", pa.float32()),
    ]
)


@dataclass(frozen=True)
class Finding:
    """Something about the data that the reader of a plan should know.

    code: a stable identifier, such as "gap". sentence: what was found and what was done with it.
    count: of samples or machines. machines: the names of some of them.
    """

    code: str
    severity: Literal["note", "warning"]
    sentence: str
    count: int = 0
    machines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """One file or folder that was imported. format: its name in `plan import --format`."""

    path: str
    format: str
    sha256: str
    rows: int
    detected: tuple[str, ...]  # sentences about columns and units


@dataclass(frozen=True)
class Import:
    """The description of a data folder.

    start, end: s since the epoch, of the first and the end of the last interval; 0 without samples.
    step: seconds between samples; 0 without samples. machines, with_trace: numbers of machines.
    """

    version: int
    start: float
    end: float
    step: float
    samples: int
    machines: int
    with_trace: int
    sources: tuple[Source, ...]
    findings: tuple[Finding, ...]
