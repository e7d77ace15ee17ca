"""Export of a run as pytest-benchmark JSON, for `pytest-benchmark compare`.

pytest-benchmark has one unit (seconds) and one direction (less is better):

- A metric in a unit of time becomes a benchmark in seconds. There is one for each test, metric,
  setting and backend. Every sample is a round: those of all boots. Exit costs are not corrected:
  the control loop is a benchmark of its own.
- A rate (IOPS, MiB/s) becomes the seconds of one operation, so that less is better. The column OPS
  shows the rate.
- Other units (cycles, exits, percent) would be shown as seconds. They are summarised under the
  top-level key "other_metrics", which pytest-benchmark ignores.
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
from harness.results.atomic_write import atomic_write
from harness.results.schema import RunFacts, decode_parameters
from harness.results.store import load

OPTIONS = {"timer": "harness", "warmup": False}
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}

# version of the file format, which the reader of pytest-benchmark checks
_FORMAT = "5.0.0"


def write(run: Path, out: Path) -> Path:
    """Write the run file (or a store's newest run) as pytest-benchmark JSON to `out`.

    Raises ResultError when the run cannot be read, or `out` cannot be written.
    """
    facts, frame = load(run)
    text = json.dumps(convert(facts, frame), indent=1, allow_nan=False)
    try:
        with atomic_write(out) as partial:
            partial.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ResultError(
            f"{out} cannot be written: {error.strerror}", hint="name another file, or free space"
        ) from error
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
    known &= ~frame["metric"].str.match(statistics.UTILIZATION)
    timed = frame.assign(seconds=pd.Series(seconds, index=frame.index, dtype=float))[known]
    others = statistics.summarise(frame[~known])
    return {
        "machine_info": _machine(facts),
        "commit_info": {
            "id": facts.get("commit", ""),
            "dirty": facts.get("commit", "").endswith("-dirty"),
        },
        "benchmarks": [
            _benchmark(dict(zip(statistics.KEYS, map(str, key), strict=True)), group)
            for key, group in timed.groupby(statistics.KEYS, sort=True, dropna=False)
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
    """A time in seconds; for a rate the seconds of one operation.

    None for other units, for values that are not above 0, and for a contrary better direction.
    """
    if value <= 0:
        return None
    if unit in SECONDS:
        return value * SECONDS[unit] if better != "higher" else None
    rate = unit.endswith("/s") or unit == "IOPS"
    return 1 / value if rate and better != "lower" else None


def benchmark_fields(key: Mapping[str, str], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """pytest-benchmark's name fields of a benchmark. key: values of KEYS."""
    # The name contains the backend: pytest-benchmark compares by name.
    function, _, own = key["test"].removesuffix("]").partition("[")
    setting = [own] if own else []
    setting += [key["hypervisor"], key["backend"], *(f"{k}={v}" for k, v in parameters.items())]
    name = f"{key['metric']}[{'-'.join(setting)}]"
    return {
        "group": key["metric"],
        "name": name,
        "fullname": f"{function or key['suite'] or 'run'}::{name}",
        "params": {**parameters, "hypervisor": key["hypervisor"], "backend": key["backend"]},
        "param": "-".join(setting),
        "extra_info": {
            **{field: key[field] for field in ("metric", "unit", "better", "hypervisor")},
            **{field: key[field] for field in ("backend", "host", "image", "suite", "test")},
            "control_subtracted": False,
        },
    }


def _benchmark(key: dict[str, str], group: pd.DataFrame) -> dict[str, Any]:
    fields = benchmark_fields(key, decode_parameters(key["parameters"]))
    fields["extra_info"]["boots"] = int(group[statistics.BOOT].drop_duplicates().shape[0])
    return {**fields, "options": OPTIONS, "stats": _stats(group["seconds"].to_numpy(np.float64))}


def _stats(seconds: NDArray[np.float64]) -> dict[str, Any]:
    """pytest-benchmark's statistics, with quartiles by linear interpolation."""
    q1, median, q3 = (float(q) for q in np.quantile(seconds, [0.25, 0.5, 0.75]))
    mean = float(seconds.mean())
    deviation = float(seconds.std(ddof=1)) if seconds.size > 1 else 0.0
    fence = 1.5 * (q3 - q1)
    inside = seconds[(seconds >= q1 - fence) & (seconds <= q3 + fence)]
    stddev_outliers = int((np.abs(seconds - mean) > deviation).sum())
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
        "stddev_outliers": stddev_outliers,
        "outliers": f"{stddev_outliers};{seconds.size - inside.size}",
        "ld15iqr": float(inside.min()),
        "hd15iqr": float(inside.max()),
        "ops": 1 / mean if mean else 0.0,
        "total": float(seconds.sum()),
        "iterations": 1,
        "data": seconds.tolist(),
    }
