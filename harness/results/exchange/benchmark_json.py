"""A run as pytest-benchmark's JSON, for `pytest-benchmark compare` and `--benchmark-compare`.

pytest-benchmark knows one unit, seconds, and one direction, less is better. So:

- metrics measured in time become benchmarks, converted to seconds, one for each test (less its
  parameters), metric, setting and backend, every sample a round (exit costs raw: the control
  loop is one of them);
- rates (IOPS, MiB a second) become the seconds that one takes, so that less is better; its column
  OPS is the rate again;
- metrics in other units (cycles, exits an operation, percent) would be shown as seconds there,
  which is false. They are left out of "benchmarks" and summarised under the top-level key
  "other_metrics", which pytest-benchmark does not read.

The Parquet file stays the record; this is a view of it for another tool.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.errors import ResultError
from harness.results import statistics
from harness.results.atomic_write import whole
from harness.results.schema import RunFacts, decode
from harness.results.store import load

OPTIONS = {"timer": "harness", "warmup": False}
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}

# Of the file's format, not of the program: what its reader expects of a file of this layout.
_FORMAT = "5.0.0"
_BY = ["suite", "test", *statistics.KEYS]


def write(run: Path, out: Path) -> Path:
    """Write the run file (or a store's newest run) as pytest-benchmark JSON to `out`.

    Raises ResultError when the run cannot be read or `out` not be written.
    """
    facts, frame = load(run)
    text = json.dumps(convert(facts, frame), indent=1, allow_nan=False)
    try:
        with whole(out) as partial:
            partial.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ResultError(f"{out} cannot be written: {error.strerror}") from error
    return out


def convert(facts: RunFacts, frame: pd.DataFrame) -> dict[str, Any]:
    """The JSON object: machine_info, commit_info, benchmarks, other_metrics."""
    seconds = [
        in_seconds(value, unit, better)
        for value, unit, better in zip(
            *(frame[name] for name in ("value", "unit", "better")), strict=True
        )
    ]
    known = pd.Series([value is not None for value in seconds], index=frame.index, dtype=bool)
    known &= ~frame["metric"].str.match(statistics.UTILIZATION)  # that is no benchmark
    timed = frame.assign(seconds=pd.Series(seconds, index=frame.index, dtype=float))[known]
    # boots are often the parameter of a test: they are rounds of one benchmark, not many
    timed["test"] = timed["test"].str.replace(r"\[.*\]$", "", regex=True)
    others = statistics.summarise(frame[~known])
    return {
        "machine_info": _machine(facts),
        "commit_info": {
            "id": facts.get("commit", ""),
            "dirty": facts.get("commit", "").endswith("-dirty"),
        },
        "benchmarks": [
            _benchmark(dict(zip(_BY, map(str, key), strict=True)), group)
            for key, group in timed.groupby(_BY, sort=True, dropna=False)
        ],
        "other_metrics": json.loads(others.drop(columns="flags").to_json(orient="records") or "[]"),
        "datetime": facts.get("start", ""),
        "version": _FORMAT,
    }


def _machine(facts: RunFacts) -> dict[str, Any]:
    return {
        "node": facts.get("hostname", ""),
        "machine": "x86_64",
        "system": "Linux",
        "release": facts.get("kernel", ""),
        "cpu": {"brand_raw": facts.get("cpu_model", ""), "count": facts.get("cpus", 0)},
        "backend": facts.get("backend", ""),
        "emulated": facts.get("emulated", False),
        "host_fingerprint": facts.get("fingerprint", ""),
    }


def in_seconds(value: float, unit: str, better: str) -> float | None:
    """A time in seconds, or of a rate what one takes; None for what is neither, or not above 0, or
    is the better the longer it takes: there less is better."""
    if value <= 0:
        return None
    if unit in SECONDS:
        return value * SECONDS[unit] if better != "higher" else None
    rate = unit.endswith("/s") or unit == "IOPS"
    return 1 / value if rate and better != "lower" else None


def named(key: Mapping[str, str], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What a benchmark is called, of KEYS, suite and test: pytest-benchmark's fields for it."""
    # The backend is part of the name, so that no comparison by name crosses backends.
    setting = [key["hypervisor"], key["backend"], *(f"{k}={v}" for k, v in parameters.items())]
    name = f"{key['metric']}[{'-'.join(setting)}]"
    return {
        "group": key["metric"],
        "name": name,
        "fullname": f"{key['test'] or key['suite'] or 'run'}::{name}",
        "params": {**parameters, "hypervisor": key["hypervisor"], "backend": key["backend"]},
        "param": "-".join(setting),
        "extra_info": {
            **{field: key[field] for field in ("metric", "unit", "better", "hypervisor")},
            **{field: key[field] for field in ("backend", "host", "image", "suite", "test")},
            "control_subtracted": False,
        },
    }


def _benchmark(key: dict[str, str], group: pd.DataFrame) -> dict[str, Any]:
    made = named(key, decode(key["parameters"]))
    made["extra_info"]["boots"] = int(group[statistics.BOOT].drop_duplicates().shape[0])
    return {**made, "options": OPTIONS, "stats": _stats(group["seconds"].to_numpy(np.float64))}


def _stats(seconds: NDArray[np.float64]) -> dict[str, Any]:
    """pytest-benchmark's fields; quartiles by linear interpolation (it has methods of its own)."""
    q1, median, q3 = (float(q) for q in np.quantile(seconds, [0.25, 0.5, 0.75]))
    mean = float(seconds.mean())
    deviation = float(seconds.std(ddof=1)) if seconds.size > 1 else 0.0
    fence = 1.5 * (q3 - q1)
    inside = seconds[(seconds >= q1 - fence) & (seconds <= q3 + fence)]
    far = int((np.abs(seconds - mean) > deviation).sum())
    return {
        "min": float(seconds.min()),
        "max": float(seconds.max()),
        "mean": mean,
        "stddev": deviation,
        "rounds": int(seconds.size),
        "median": median,
        "iqr": q3 - q1,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": int(seconds.size - inside.size),
        "stddev_outliers": far,
        "outliers": f"{far};{seconds.size - inside.size}",
        "ld15iqr": float(inside.min()),
        "hd15iqr": float(inside.max()),
        "ops": 1 / mean if mean else 0.0,
        "total": float(seconds.sum()),
        "iterations": 1,
        "data": seconds.tolist(),
    }
