from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from harness.errors import HarnessError, ResultError
from harness.results.schema import (
    COLUMNS,
    Parameter,
    Sample,
    decode_parameters,
    encode_facts,
    encode_parameters,
)
from tests.results.synthetic import START, Synthetic

GOOD = next(Synthetic("20260102T030405Z-abcdef").boot())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("value", float("nan")),
        ("value", float("inf")),
        ("value", "1.0"),
        ("value", True),
        ("value", None),
        ("metric", ""),
        ("metric", 3),
        ("unit", None),
        ("test", "no UTF-8: \udcff"),
        ("better", "faster"),
        ("better", ""),
        ("boot", -1),
        ("boot", 1.0),
        ("batch", True),
        ("batch", 2**31),
        ("time", datetime(2026, 1, 2)),
        ("time", "2026-01-02"),
        ("parameters", None),
        ("parameters", {"depth": None}),
        ("parameters", {"depth": [1]}),
        ("parameters", {"depth": float("nan")}),
        ("parameters", {1: "x"}),
    ],
)
def test_invalid_field_is_named_in_the_error(field: str, value: Any) -> None:
    with pytest.raises(ResultError, match=field) as caught:
        dataclasses.replace(GOOD, **{field: value})
    assert isinstance(caught.value, HarnessError)
    assert isinstance(caught.value, ValueError)
    assert "hint:" in str(caught.value)


def test_row_has_every_column_and_utc() -> None:
    east = timezone(timedelta(hours=5))
    row = dataclasses.replace(GOOD, time=START.astimezone(east), value=3).row()
    assert tuple(row) == COLUMNS
    assert row["time"].utcoffset() == timedelta(0)
    assert row["time"] == START
    assert isinstance(row["value"], float)


def test_parameters_round_trip_canonically() -> None:
    one: dict[str, Parameter] = {"b": 1, "a": "ü"}
    other: dict[str, Parameter] = {"a": "ü", "b": 1}
    assert encode_parameters(one) == encode_parameters(other)
    assert decode_parameters(encode_parameters(one)) == other
    with pytest.raises(ResultError, match="must be a JSON object"):
        decode_parameters("[1]")


def test_sample_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        GOOD.value = 2.0  # type: ignore[misc]


@pytest.mark.parametrize("bad", [float("nan"), object(), {1, 2}])
def test_facts_must_be_json(bad: Any) -> None:
    with pytest.raises(ResultError, match="not JSON"):
        encode_facts({"notes": [bad]})


def test_sample_equality_is_by_value() -> None:
    assert Sample(**{f.name: getattr(GOOD, f.name) for f in dataclasses.fields(GOOD)}) == GOOD
