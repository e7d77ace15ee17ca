"""Synthetic comparisons for tests. No figure here was measured."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from harness.results import RunFacts
from harness.results.compare import NOT_COMPARED, SERIES, Comparison
from harness.results.selection import RunSelection
from tests.results.synthetic import facts

BASE, NEW = "20260102T030405Z-aaaaaa", "20260103T030405Z-bbbbbb"


def make_comparison(verdicts: dict[str, int] | None = None, **texts: Any) -> Comparison:
    """A comparison with a number of series for each verdict.

    texts: text="..." replaces names, facts, environment and notes.
    """
    verdicts = verdicts or {
        **{"regressed": 3, "improved": 2, "inconclusive": 1, "pass": 20},
        NOT_COMPARED: 1,
    }
    table = pd.DataFrame(
        [_row(verdict, i, texts) for verdict, count in verdicts.items() for i in range(count)]
    )
    replacement = texts.get("text", "")
    sides = [
        RunSelection(replacement or label, [Path(f"{run}.parquet")], [_facts(run, replacement)])
        for label, run in (("previous", BASE), ("latest", NEW))
    ]
    environment = [(replacement or "kernel", replacement or "6.1.0-1", replacement or "6.1.0-2")]
    return Comparison(sides[0], sides[1], table, environment, [replacement] if replacement else [])


def _facts(run: str, replacement: str) -> RunFacts:
    more = (
        {"cpu_model": replacement, "commit": replacement, "start": replacement}
        if replacement
        else {}
    )
    return facts(**{"run": run, **more})


def _row(verdict: str, number: int, texts: dict[str, Any]) -> dict[str, Any]:
    effects = {"regressed": 0.5, "improved": -0.4, "inconclusive": 0.06, "pass": 0.01}
    effect = effects.get(verdict, 0.0)
    effect /= 1 + number / 10
    replacement = texts.get("text", "")
    key = {
        **{"hypervisor": replacement or "kvm", "backend": "emulated", "unit": replacement or "us"},
        **{"suite": replacement or "io", "test": replacement or "test_io.py::test_it"},
        **{"variant": replacement},
        **{"metric": f"io.{verdict}.{replacement}{number}", "better": "lower"},
        "parameters": json.dumps(
            {"rw": "randread", "bs": 4096, "depth": number, **_of(replacement)}
        ),
    }
    one_sided = verdict == NOT_COMPARED
    return {
        **{name: key[name] for name in (*SERIES, "variant")},
        **{"base": 100.0, "new": 100.0 * (1 + effect), "base_n": 30, "new_n": 40},
        **{"base_boots": 8, "new_boots": 0 if one_sided else 9},
        **{
            "effect": math.nan if one_sided else effect,
            "low": math.nan if one_sided else effect - 0.04,
        },
        **{"high": math.nan if one_sided else effect + 0.05, "p": 0.001, "verdict": verdict},
        "flags": [replacement or "not measured in the new run"] if one_sided else [],
    }


def _of(replacement: str) -> dict[str, str]:
    return {replacement: replacement} if replacement else {}
