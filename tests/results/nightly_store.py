"""Synthetic stores for tests: nightly runs with known levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from harness.results import RunWriter, Sample
from harness.results.schema import RunFacts
from tests.results.synthetic import HOST, facts

FIRST = datetime(2026, 3, 1, 2, 0, 0, tzinfo=UTC)


def night_writer(store: Path, number: int, *, backend: str = "vmx", **known: Any) -> RunWriter:
    """A writer of the run of one night. known: facts that differ from the usual ones."""
    start = FIRST + timedelta(days=number)
    about: RunFacts = facts(
        **{
            **{"emulated": False, "backend": backend, "commit": commit(number)},
            **{"start": start.isoformat(), "end": (start + timedelta(hours=1)).isoformat()},
            "image": f"sha256:{number:04x}",
            **known,
        }
    )
    return RunWriter(store, about, run=f"{start:%Y%m%dT%H%M%SZ}-{number:06x}")


def night_sample(writer: RunWriter, number: int, **fields: Any) -> Sample:
    """A sample of that run."""
    usual: dict[str, Any] = {
        "unit": "us",
        "better": "lower",
        "run": writer.run,
        "suite": "made",
        "test": "made.py::test_it",
        "parameters": {},
        "hypervisor": "kvm",
        "backend": "vmx",
        "host": HOST,
        "image": f"sha256:{number:04x}",
        "commit": commit(number),
        "time": FIRST + timedelta(days=number),
    }
    return Sample(**{**usual, **fields})


def night(
    store: Path,
    number: int,
    levels: Mapping[str, float],
    *,
    boots: int = 6,
    spread: float = 0.01,
    better: str = "lower",
    backend: str = "vmx",
    **known: Any,
) -> Path:
    """Write a run of one night: one sample a boot, lognormal around the level of the metric."""
    random = np.random.default_rng(number)
    writer = night_writer(store, number, backend=backend, **known)
    for metric, level in levels.items():
        for boot in range(boots):
            writer.add(
                night_sample(
                    writer,
                    number,
                    metric=metric,
                    value=level * float(random.lognormal(0, spread)),
                    better=better,
                    item=f"made.py::test_it[{boot}]",
                    backend=backend,
                    time=FIRST + timedelta(days=number, seconds=boot),
                    boot=boot,
                )
            )
    return writer.close()


def commit(number: int) -> str:
    return f"{number:040x}"


def nights(store: Path, levels: Sequence[Mapping[str, float]], **known: Any) -> list[Path]:
    return [night(store, number, one, **known) for number, one in enumerate(levels)]
