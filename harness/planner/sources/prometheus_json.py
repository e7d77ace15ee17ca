"""The series in an answer of Prometheus, checked piece by piece."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from harness.planner.sources.counters import Times, Values
from harness.planner.sources.prometheus_metrics import Labels
from harness.planner.sources.source_file import SourceFile, readable
from harness.planner.sources.times import TimeFormat, parse_numbers

_MAX_BYTES = 256 << 20  # objects of Python need several times as much
_EXPORT_AGAIN = "export it again by /api/v1/query_range"


def read_series(file: SourceFile) -> Iterator[tuple[Labels, Times, Values]]:
    """Labels with `__name__`, times in ms, and values; NaN for a value that is not finite.

    Raises PlanError for an answer that is no matrix of named series.
    """
    content = _load(file)
    for answer in content if isinstance(content, list) else [content]:
        for series in _results(file, answer):
            labels = series.get("metric") if isinstance(series, dict) else None
            if not isinstance(labels, dict):
                raise file.error("has a series without labels", _EXPORT_AGAIN)
            if not labels.get("__name__"):
                raise file.error(
                    "has a series without a name, as results of rate() or sum() are",
                    "export the counters and gauges themselves: the import makes rates of them",
                )
            texts = {str(name): str(value) for name, value in labels.items()}
            yield texts, *_points(file, texts["__name__"], series.get("values"))


def _load(file: SourceFile) -> Any:
    with readable(file.path), pa.input_stream(str(file.path), compression="detect") as stream:
        data = stream.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise file.error(
            f"has more than {_MAX_BYTES >> 20} MiB", "export shorter ranges, or one metric a file"
        )
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise file.error(f"is no JSON: {str(error)[:100]}", _EXPORT_AGAIN) from error


def _results(file: SourceFile, answer: Any) -> list[Any]:
    """The series of one answer."""
    if isinstance(answer, dict) and answer.get("status") == "error":
        raise file.error(
            f"is an error of Prometheus: {str(answer.get('error'))[:100]}", "correct the query"
        )
    data = answer.get("data", answer) if isinstance(answer, dict) else None
    if not isinstance(data, dict) or not isinstance(data.get("result"), list):
        raise file.error("is no answer of Prometheus", _EXPORT_AGAIN)
    if data.get("resultType") != "matrix":
        raise file.error(
            f"is a {str(data.get('resultType'))[:20]} of one moment, not a range", _EXPORT_AGAIN
        )
    results: list[Any] = data["result"]
    return results


def _points(file: SourceFile, name: str, points: Any) -> tuple[Times, Values]:
    try:
        pairs = [(float(time), float(value)) for time, value in points]
    except (TypeError, ValueError) as error:
        raise file.error(f"metric {name} has a value that is no number", _EXPORT_AGAIN) from error
    table = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    values = np.where(np.isfinite(table[:, 1]), table[:, 1], np.nan)
    times = parse_numbers(str(file.path), TimeFormat("values", 1), table[:, 0])
    order = np.argsort(times, kind="stable")
    return times[order], values[order]
