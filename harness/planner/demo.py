"""A synthetic data centre: servers of a business that are idle most of the time.

It is seeded: the same arguments give the same data. All of its figures are made up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harness.planner.data_folder import NewDataFolder, new_data_folder
from harness.planner.trace import BUCKETS, DATA_VERSION, HOSTS, MACHINES, TRACE, Import

START = 1_767_571_200.0  # Monday 5 January 2026, 0:00 UTC
STEP = 300.0
DAYS = 28
SERVERS = 400
_GIB = 1024.0
_PER_RACK = 20
_CORES = 16
_SERVER_GIB = 64

HOSTS_TOML = f"""\
# The hosts of the demo. Prices are examples.

[site]
currency = "USD"
rack_unit_price = 300

[host.old]                 # each server of today
cores = {_CORES}
threads = {2 * _CORES}
memory_gib = {_SERVER_GIB}
rating = 1
rack_units = 2
hosts_per_rack = {_PER_RACK}
curve = "2-socket-2012"

[host.new]
cores = 64
threads = 128
memory_gib = 1024
rating = 1.15              # operations of a core in SPECpower, 2021 beside 2012
iops = 400000
network_mib_s = 5000
rack_units = 2
hosts_per_rack = 16
curve = "2-socket-2021"
price = 25000

[today]
type = "old"
servers = "machines"

[constraints]
apart = [["db-001", "db-002"], ["dc-001", "dc-002"]]
spread = [["web-00*"]]
licensed = {{ database = ["db-*"] }}
"""


@dataclass(frozen=True)
class Role:
    """What servers of one kind do. Shares are of the server's cores, at its busiest usual time.

    share: of all servers. level: lowest and highest of them. night: the same for a nightly job of
    `hours`. memory: resident share. iops, network: at the busiest time.
    """

    name: str
    share: float
    level: tuple[float, float]
    night: tuple[float, float]
    hours: float
    weekend: float
    memory: tuple[float, float]
    iops: float
    network: float


_ROLES = (
    Role("web", 0.24, (0.04, 0.22), (0.01, 0.03), 0.5, 0.7, (0.05, 0.20), 60, 12.0),
    Role("app", 0.22, (0.04, 0.25), (0.05, 0.20), 1.0, 0.3, (0.10, 0.35), 80, 6.0),
    Role("db", 0.10, (0.06, 0.25), (0.20, 0.50), 2.0, 0.5, (0.30, 0.80), 900, 8.0),
    Role("batch", 0.07, (0.01, 0.03), (0.50, 0.95), 2.5, 0.9, (0.10, 0.40), 300, 10.0),
    Role("file", 0.08, (0.01, 0.05), (0.05, 0.15), 3.0, 0.2, (0.10, 0.30), 400, 30.0),
    Role("dc", 0.05, (0.01, 0.04), (0.01, 0.03), 0.5, 0.5, (0.05, 0.15), 20, 0.5),
    Role("test", 0.13, (0.01, 0.10), (0.00, 0.05), 1.0, 0.1, (0.05, 0.25), 40, 1.0),
    Role("old", 0.11, (0.0005, 0.002), (0.005, 0.03), 0.2, 1.0, (0.03, 0.10), 1, 0.005),
)


def write_demo(
    folder: Path, *, servers: int = SERVERS, seed: int = 1, days: int = DAYS, replace: bool = False
) -> Path:
    """Write `folder`/data and `folder`/hosts.toml; return the path of hosts.toml.

    Raises PlanError when the folder has other data.
    """
    machines = list(_machines(servers, seed))
    moments = round(days * 86_400 / STEP)
    samples = 0
    with new_data_folder(folder / "data", replace=replace) as data:
        for bucket in range(BUCKETS):
            samples += _write_bucket(data, bucket, machines[bucket::BUCKETS], moments)
        data.write_inventory(_inventory(machines), _hosts(machines))
        end = START + moments * STEP
        traced = sum(one.traced for one in machines)
        data.write_description(
            Import(DATA_VERSION, START, end, STEP, samples, len(machines), traced, (), ())
        )
    hosts = folder / "hosts.toml"
    hosts.write_text(HOSTS_TOML, encoding="utf-8")
    return hosts


@dataclass(frozen=True)
class _Machine:
    """A server with its own random numbers. traced: whether it has samples."""

    name: str
    number: int
    role: Role
    seed: int
    traced: bool


def _machines(servers: int, seed: int) -> Iterator[_Machine]:
    """Servers by role. One of a hundred has no samples."""
    number = 0
    ends = np.rint(np.cumsum([role.share for role in _ROLES]) * servers)
    for role, end in zip(_ROLES, ends, strict=True):
        for place in range(1, int(end) - number + 1):
            name = f"{role.name}-{place:03}"
            yield _Machine(name, number + place - 1, role, seed, (number + place) % 100 != 0)
        number = int(end)


def _write_bucket(data: NewDataFolder, bucket: int, machines: list[_Machine], moments: int) -> int:
    """Write the samples of some machines; return their number."""
    traced = [one for one in machines if one.traced]
    if not traced:
        return 0
    times = ((START + STEP * np.arange(moments)) * 1000).astype("datetime64[ms]")
    parts = []
    for place, machine in enumerate(traced):
        values = _samples(machine, moments)
        vm = pa.DictionaryArray.from_arrays(
            np.full(moments, place, np.int32), [one.name for one in traced]
        )
        columns = {"time": pa.array(times, pa.timestamp("ms", tz="UTC")), "vm": vm}
        columns.update({name: pa.array(column, pa.float32()) for name, column in values.items()})
        columns["cpu_cores_max"] = pa.nulls(moments, pa.float32())
        parts.append(
            pa.table(columns).select(TRACE.names).filter(pa.array(_kept(machine, moments)))
        )
    table = pa.concat_tables(parts)
    data.write_trace(bucket, table)
    return int(table.num_rows)


def _kept(machine: _Machine, moments: int) -> NDArray[np.bool_]:
    """Moments with a sample: a few servers have a gap of some hours."""
    random = np.random.default_rng([machine.seed, machine.number, 1])
    kept = np.ones(moments, np.bool_)
    if random.random() < 0.03:
        start = int(random.integers(moments))
        kept[start : start + int(random.integers(6, 100))] = False
    return kept


def _samples(machine: _Machine, moments: int) -> dict[str, NDArray[np.float32]]:
    role = machine.role
    random = np.random.default_rng([machine.seed, machine.number])
    hour = np.arange(moments) * STEP / 3600
    of_day, of_week = hour % 24, hour % 168
    level, night = (random.uniform(*limits) for limits in (role.level, role.night))
    # office hours, with an own middle and an own width
    middle, width = random.normal(13, 1.5), random.uniform(3, 5)
    day = np.exp(-0.5 * ((of_day - middle) / width) ** 2)
    day *= np.where(of_week < 120, 1.0, role.weekend)
    shape = 0.1 + 0.9 * day
    load = level * shape * _noise(random, moments, 0.35)
    start = random.uniform(0, 6) if role.name != "batch" else random.uniform(18, 30)
    job = ((of_day - start) % 24 < role.hours) * night * _noise(random, moments, 0.1)
    burst = _bursts(random, moments) * level
    share = np.clip(load + job + burst + 0.002 * random.random(moments), 0, 1)
    work = np.clip(share / max(level, night, 1e-3), 0, 1.5)
    resident = random.uniform(*role.memory) * _SERVER_GIB * _GIB
    growth = 1 + 0.1 * np.minimum(hour / 336, 1) * random.random()
    writes = random.uniform(0.2, 0.6)
    iops = role.iops * (0.02 + work) * _noise(random, moments, 0.3)
    return {
        "cpu_cores": (share * _CORES).astype(np.float32),
        "memory_mib": (resident * growth * (0.95 + 0.05 * shape)).astype(np.float32),
        "read_iops": ((1 - writes) * iops).astype(np.float32),
        "write_iops": (writes * iops).astype(np.float32),
        "net_mib_s": (role.network * (0.02 + work) * _noise(random, moments, 0.3)).astype(
            np.float32
        ),
    }


def _noise(random: np.random.Generator, moments: int, spread: float) -> NDArray[np.float64]:
    """Positive noise around 1, which keeps for some samples."""
    slow = np.repeat(random.normal(0, spread, moments // 6 + 1), 6)[:moments]
    return np.exp(slow + random.normal(0, spread / 2, moments) - spread**2 / 2)


def _bursts(random: np.random.Generator, moments: int) -> NDArray[np.float64]:
    """Rare short bursts, in shares of the usual level."""
    starts = random.random(moments) < 1 / 300
    return np.asarray(starts * random.exponential(1.5, moments))


def _inventory(machines: list[_Machine]) -> pa.Table:
    rows = [
        {
            "vm": one.name,
            "vcpus": float(_CORES),
            "memory_mib": _SERVER_GIB * _GIB,
            "host": f"server-{one.number + 1:04}",
            "cluster": "demo",
            "powered_on": True,
            "template": False,
        }
        for one in machines
    ]
    return pa.Table.from_pylist(rows, schema=MACHINES)


def _hosts(machines: list[_Machine]) -> pa.Table:
    rows = [
        {
            "host": f"server-{one.number + 1:04}",
            "cluster": "demo",
            "model": "2 x 8 cores",
            "cores": float(_CORES),
            "threads": 2.0 * _CORES,
            "memory_mib": _SERVER_GIB * _GIB,
        }
        for one in machines
    ]
    return pa.Table.from_pylist(rows, schema=HOSTS)
