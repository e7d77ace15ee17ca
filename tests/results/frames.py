"""Synthetic frames of samples, for tests of the statistics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
import pyarrow as pa

from harness.results import Sample
from harness.results.schema import SCHEMA
from tests.results.synthetic import Synthetic

RUN = "20260102T030405Z-abcdef"
MAKER = Synthetic(RUN)


def frame(samples: Iterable[Sample]) -> pd.DataFrame:
    table: pd.DataFrame = pa.Table.from_pylist([s.row() for s in samples], SCHEMA).to_pandas()
    return table


def boots(metric: str, values: Iterable[Iterable[float]], **more: Any) -> list[Sample]:
    """values: one iterable for each boot, one value for each batch."""
    unit, better = more.pop("unit", "ns"), more.pop("better", "lower")
    return [
        MAKER.sample(metric, value, unit, better, boot=i, batch=j, **more)
        for i, batch in enumerate(values)
        for j, value in enumerate(batch)
    ]


def row(table: pd.DataFrame, **values: Any) -> dict[str, Any]:
    for name, value in values.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return {str(key): value for key, value in table.to_dict("records")[0].items()}
