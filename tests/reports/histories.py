"""Synthetic histories for tests. No figure here was measured."""

from __future__ import annotations

import hashlib
import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from harness.results import RunFacts
from harness.results.compare import SERIES, VERDICTS
from harness.results.history import History
from tests.results.synthetic import facts

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
OF_CHANGE = ("effect", "low", "high", "p", "run", "commit", "previous_commit")


def make_history(series: int = 8, nights: int = 40, **texts: Any) -> History:
    """Every fourth series regressed, every fifth improved, every seventh is noise.

    One change is acknowledged. texts: facts of all runs; metric: the prefix of all metrics.
    """
    random = np.random.default_rng(1)
    metric = texts.pop("metric", "io.clat.")
    runs = [_run(at, **texts) for at in range(nights)]
    points: list[dict[str, Any]] = []
    changes: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for number in range(series):
        name = f"{number:08x}"
        key = {"id": name, **_key(f"{metric}{number // 4}", number)}
        factor = 1.2 if number % 4 == 0 else 0.8 if number % 5 == 0 else 1.0
        noise = 0.3 if number % 7 == 6 else 0.01
        at = nights // 2 + number % 5
        values = 100 * (1 + number) * np.exp(random.normal(0, noise, nights))
        values[at:] *= factor
        points += [
            {**key, **_of(runs[i]), "value": value, "n": 30, "boots": 5}
            for i, value in enumerate(values.tolist())
        ]
        found = _change(key, runs, at, factor - 1, 100 * (1 + number))
        if factor != 1.0:
            changes.append(found)
        rows.append(_row(key, values, found if factor != 1.0 else None, noise))
    changes.sort(key=lambda row: str(row["run"]))
    changes[0]["acknowledged"] = "a new kernel"
    table = pd.DataFrame(rows)
    table.loc[table["id"] == changes[0]["id"], "verdict"] = "pass"
    order = np.lexsort((-table["effect"].abs().fillna(0), table["verdict"].map(VERDICTS.index)))
    return History(
        runs, pd.DataFrame(points), pd.DataFrame(changes), table.iloc[order], ["one run is odd"]
    )


def _run(at: int, **texts: Any) -> RunFacts:
    moment = START + timedelta(days=at)
    name = f"{moment:%Y%m%dT%H%M%SZ}-{at:06x}"
    commit = hashlib.sha256(str(at // 2).encode()).hexdigest()[:40]
    return facts(**{"run": name, "commit": commit, "start": moment.isoformat(), **texts})


def _key(metric: str, number: int) -> dict[str, str]:
    known = {
        **{"hypervisor": "kvm", "backend": "emulated", "metric": metric, "unit": "us"},
        **{"suite": "made-up", "test": "made_up.py::test_it"},
        **{"parameters": json.dumps({"depth": 2 ** (number % 4)}), "better": "lower"},
    }
    return {name: known[name] for name in SERIES}


def _of(run: RunFacts) -> dict[str, Any]:
    return {"run": run["run"], "time": pd.Timestamp(run["start"]), "commit": run["commit"]}


def _change(
    key: dict[str, str], runs: list[RunFacts], at: int, effect: float, level: float
) -> dict[str, Any]:
    return {
        **{**key, **_of(runs[at]), "previous_run": runs[at - 1]["run"]},
        **{
            "previous_commit": runs[at - 1]["commit"],
            "detected": runs[min(at + 3, len(runs) - 1)]["run"],
        },
        **{"old": level, "new": level * (1 + effect), "effect": effect},
        **{"low": effect - 0.02, "high": effect + 0.02, "p": 1e-6},
        **{"environment": [("kernel", "6.1.0-1", runs[at].get("kernel", ""))], "acknowledged": ""},
    }


def _row(
    key: dict[str, str], values: Any, change: dict[str, Any] | None, noise: float
) -> dict[str, Any]:
    none = {**dict.fromkeys(OF_CHANGE[:4], math.nan), **dict.fromkeys(OF_CHANGE[4:], "")}
    verdict = "inconclusive" if noise > 0.1 else "pass"
    if change:
        verdict = "regressed" if change["effect"] > 0 else "improved"
    return {
        **{**key, "n": len(values), "last": values[-1], "level": values[-1]},
        **{"verdict": verdict, "cv": noise},
        **{column: (change or none)[column] for column in OF_CHANGE},
        "flags": [f"noise of {noise:.0%}"] if noise > 0.1 else [],
    }
