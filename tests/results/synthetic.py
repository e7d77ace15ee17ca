"""Synthetic runs for tests. No figure here was measured."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from harness.results import RunFacts, RunWriter, Sample

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HOST = "0123456789ab"
VERSION_1 = "20260102T030405Z-0000a1"  # the run of fixtures/v1.parquet, of schema version 1
NS_A_CYCLE = 0.5

# case -> cost in ns above the control, exits per operation
CASES = {
    "control": (0.0, 0.0),
    "hypercall_null": (11_800.0, 1.0),
    "cpuid": (10_400.0, 1.0),
    "pio_kernel": (16_900.0, 1.0),
    "pio_user": (142_000.0, 1.0),
}
CONTROL_NS = 22.0
INSTRUCTIONS = 3
DISK = {("randread", 1): 4_100.0, ("randread", 32): 11_800.0, ("randwrite", 1): 3_300.0}


@dataclass
class Synthetic:
    """Creates samples with a random generator that is seeded with `seed`."""

    run: str
    boots: int = 5
    batches: int = 30
    backend: str = "emulated"
    hypervisor: str = "kvm"
    test: str = "suites/synthetic.py::test_made_up"
    seed: int = 1
    random: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def sample(self, metric: str, value: float, unit: str, better: str, **more: Any) -> Sample:
        boot, batch = more.pop("boot", 0), more.pop("batch", 0)
        given: dict[str, Any] = {
            **{"metric": metric, "value": float(value), "unit": unit, "better": better},
            **{
                "run": self.run,
                "suite": metric.split(".", maxsplit=1)[0],
                "test": self.test,
                "item": f"{self.test}[{boot}]",
            },
            **{"parameters": {}, "hypervisor": self.hypervisor, "backend": self.backend},
            **{"host": HOST, "image": "sha256:feed", "commit": "c0ffee"},
            **{"time": START + timedelta(seconds=10 * boot + 0.1 * batch)},
            **{"boot": boot, "batch": batch},
        }
        return Sample(**{**given, **more})

    def boot(self) -> Iterator[Sample]:
        for boot in range(self.boots):
            at = 0.0
            for stage, spent in (("kernel", 0.4), ("init", 5.6), ("sshd", 0.7), ("ready", 0.9)):
                at += spent * float(self.random.lognormal(0, 0.06))
                parameters = {"vcpus": 1, "memory": 256}
                yield self.sample(
                    f"boot.{stage}", at, "s", "lower", boot=boot, parameters=parameters
                )

    def exits(self) -> Iterator[Sample]:
        for boot in range(self.boots):
            shift = float(self.random.lognormal(0, 0.03))
            for case, (cost, count) in CASES.items():
                ops = 200_000 if case == "control" else 1000
                parameters = {"ops": ops, "instructions": INSTRUCTIONS, "vcpus": 1}
                for batch in range(self.batches):
                    noise = float(self.random.lognormal(0, 0.02))
                    ns = (CONTROL_NS + cost) * shift * noise
                    where = {"boot": boot, "batch": batch, "parameters": parameters}
                    yield self.sample(f"exit.{case}", ns, "ns", "lower", **where)
                    cycles = ns / NS_A_CYCLE
                    yield self.sample(f"exit.{case}.cycles", cycles, "cycles", "lower", **where)
                where = {"boot": boot, "parameters": parameters}
                found = count + (0.31 if case == "pio_kernel" else 0.0007)
                yield self.sample(f"exit.{case}.exits_per_op", found, "exits/op", "none", **where)

    def io(self) -> Iterator[Sample]:
        for hypervisor, factor in (("native", 1.0), (self.hypervisor, 0.78)):
            for boot in range(self.boots):
                for (rw, depth), iops in DISK.items():
                    got = iops * factor * float(self.random.lognormal(0, 0.03))
                    p50 = depth / got * 1e6
                    more: dict[str, Any] = {
                        "hypervisor": hypervisor,
                        "boot": boot,
                        "parameters": {"rw": rw, "bs": "4k", "depth": depth},
                    }
                    yield self.sample("io.iops", got, "IOPS", "higher", **more)
                    for name, times in (("p50", 0.9), ("p99", 2.4), ("p99.9", 4.8)):
                        yield self.sample(f"io.clat.{name}", p50 * times, "us", "lower", **more)

    def utilization(self, ticks: int = 120) -> Iterator[Sample]:
        for tick in range(ticks):
            x = tick / ticks
            guest = 45 * abs(np.sin(7 * x)) * (0.9 + 0.1 * self.random.random())
            parts = {
                "user": 6 + 4 * self.random.random(),
                "system": 8 + 10 * x * self.random.random(),
                "guest": guest,
                "iowait": 3 * self.random.random(),
                "steal": 1.2 * self.random.random() if x > 0.6 else 0.0,
            }
            parts["idle"] = 100 - sum(parts.values())
            values = {f"cpu.{name}": (value, "%") for name, value in parts.items()}
            values |= {"memory.used": (700 + 900 * x, "MiB"), "memory.total": (2048, "MiB")}
            for i, (name, (value, unit)) in enumerate(values.items()):
                # the values of a tick have different times, as real ones
                moment = START + timedelta(seconds=tick, microseconds=40 * i)
                more: dict[str, Any] = {"batch": tick, "time": moment}
                more |= dict.fromkeys(("suite", "test", "item"), "")
                yield self.sample(f"host.{name}", value, unit, "none", **more)

    def everything(self) -> Iterator[Sample]:
        for part in (self.boot, self.exits, self.io, self.utilization):
            yield from part()


def facts(**more: Any) -> RunFacts:
    known: RunFacts = {
        "hypervisor": "kvm",
        "host": "emulated",
        "hostname": "synthetic",
        "why": "made up for a test",
        "emulated": True,
        "backend": "emulated",
        "fingerprint": HOST,
        "cpu_model": "QEMU TCG CPU (synthetic)",
        "cpus": 2,
        "memory": 2 << 30,
        "kernel": "6.1.0-0-synthetic",
        "governor": "",
        "smt": "off",
        "mitigations": {"spectre_v2": "Mitigation: Retpolines", "meltdown": "Not affected"},
        "image": "sha256:feed",
        "commit": "c0ffee",
        "versions": {"python": "3.11", "pytest": "9"},
        "command": "pytest suites/ --hypervisor=kvm",
        "start": START.isoformat(),
        "end": (START + timedelta(seconds=151)).isoformat(),
        "exit_status": 0,
        "outcomes": {"passed": 9, "failed": 0, "skipped": 1},
        "stages": {"host": 9.1, "image": 0.2, "suites": 139.0, "report": 1.6},
    }
    known.update(more)  # type: ignore[typeddict-item]
    return known


def write_run(directory: Path, *, parts: str = "", boots: int = 5, **more: Any) -> Path:
    """Write a synthetic run with RunWriter. parts: names of methods (default: all)."""
    writer = RunWriter(directory, facts(**more.pop("facts", {})))
    maker = Synthetic(writer.run, boots=boots, **more)
    for part in parts.split() or ["everything"]:
        for sample in getattr(maker, part)():
            writer.add(sample)
    return writer.close()


def version_1(directory: Path) -> Path:
    """Copy a run file of schema version 1, which an old harness wrote, into a store."""
    path = directory / "2026-01" / f"{VERSION_1}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(__file__).parent / "fixtures" / "v1.parquet", path)
    return path
