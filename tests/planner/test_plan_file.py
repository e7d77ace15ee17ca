"""The plan's JSON: what is written is read, and nothing else is."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import PlanError
from harness.planner.csv_files import write_csv
from harness.planner.plan import (
    PLAN_VERSION,
    Assumption,
    Backtest,
    Demand,
    Failure,
    Fleet,
    MachineAdvice,
    Move,
    Plan,
    PlannedHost,
    Sensitivity,
    Variant,
)
from harness.planner.plan_file import read_plan, write_plan

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(max_size=20)
COUNTS = st.integers(0, 10**9)
COSTS = st.none() | NUMBERS


def few(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(strategy, max_size=2).map(tuple)


FLEETS = st.builds(
    Fleet,
    *(COUNTS, NUMBERS, NUMBERS, COUNTS, NUMBERS, NUMBERS, NUMBERS, NUMBERS),
    *(COSTS, COSTS, COSTS, COSTS, NUMBERS),
)
HOSTS = st.builds(
    PlannedHost,
    *(TEXTS, TEXTS, TEXTS, few(TEXTS)),
    st.dictionaries(TEXTS, NUMBERS, max_size=2),
    *(few(NUMBERS), NUMBERS, st.booleans()),
)
PLANS = st.builds(
    Plan,
    version=st.just(PLAN_VERSION),
    headline=TEXTS,
    data=TEXTS,
    currency=TEXTS,
    before=st.none() | FLEETS,
    after=FLEETS,
    bound=NUMBERS,
    bound_reason=TEXTS,
    interrupted=st.booleans(),
    banners=few(TEXTS),
    hosts=few(HOSTS),
    failures=few(st.builds(Failure, TEXTS, COUNTS, few(TEXTS), NUMBERS)),
    variants=few(
        st.builds(Variant, TEXTS, COUNTS, NUMBERS, COUNTS, NUMBERS, NUMBERS, NUMBERS, COSTS, TEXTS)
    ),
    backtest=st.none()
    | st.builds(Backtest, NUMBERS, NUMBERS, COUNTS, COUNTS, COUNTS, COUNTS, NUMBERS),
    advice=few(st.builds(MachineAdvice, TEXTS, TEXTS, NUMBERS, COSTS, NUMBERS, NUMBERS, TEXTS)),
    moves=few(st.builds(Move, TEXTS, TEXTS, TEXTS)),
    tornado=few(st.builds(Sensitivity, TEXTS, TEXTS, TEXTS, NUMBERS, NUMBERS, NUMBERS, TEXTS)),
    demand=few(st.builds(Demand, TEXTS, few(NUMBERS), NUMBERS, NUMBERS)),
    assumptions=few(st.builds(Assumption, TEXTS, TEXTS, TEXTS)),
    without_trace=few(TEXTS),
    left_out=few(TEXTS),
)
FLEET = Fleet(1, 2.0, 3.0, 4, 5.0, 6.0, 7.0, 8.0, None, 9.0, None, None, 0.5)
HOST = PlannedHost("h1", "new", "r1", ("vm-1",), {"cpu": 0.5}, (0.1, 0.2), 100.0, False)
PLAN = Plan(
    version=PLAN_VERSION,
    headline="1 machine on 1 host, bound 1",
    data="data",
    currency="USD",
    before=None,
    after=FLEET,
    bound=1.0,
    bound_reason="",
    interrupted=False,
    banners=(),
    hosts=(HOST,),
    failures=(),
    variants=(),
    backtest=None,
    advice=(),
    moves=(Move("vm-1", "", "h1"),),
    tornado=(),
    demand=(),
    assumptions=(),
    without_trace=(),
    left_out=(),
)


@given(plan=PLANS)
def test_a_plan_survives_its_file(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    write_plan(plan, path)
    assert read_plan(path) == plan


def test_a_number_that_is_not_known_is_null(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_plan(replace(PLAN, hosts=(replace(HOST, hours=(0.1, math.nan)),)), path)
    assert json.loads(path.read_text())["hosts"][0]["hours"] == [0.1, None]
    hours = read_plan(path).hosts[0].hours
    assert hours[0] == 0.1
    assert math.isnan(hours[1])


def without(name: str) -> dict[str, Any]:
    content = asdict(PLAN)
    del content[name]
    return content


BAD: dict[str, tuple[Any, str]] = {
    "a list": ([], "has version None"),
    "an older version": ({**asdict(PLAN), "version": 0}, "has version 0 of a plan"),
    "a missing field": (without("hosts"), "plan.hosts is missing"),
    "an unknown field": ({**asdict(PLAN), "cost": 3}, "plan.cost is unknown"),
    "text for a number": ({**asdict(PLAN), "bound": "3"}, "plan.bound is '3', expected float"),
    "a number for text": ({**asdict(PLAN), "data": 3}, "plan.data is 3, expected str"),
    "a bool for a number": ({**asdict(PLAN), "bound": True}, "plan.bound is True"),
    "a float for a count": (
        {**asdict(PLAN), "after": {**asdict(FLEET), "hosts": 1.5}},
        "plan.after.hosts is 1.5, expected int",
    ),
    "an object for a list": ({**asdict(PLAN), "moves": {}}, "plan.moves is {}"),
    "null for an object": ({**asdict(PLAN), "after": None}, "plan.after is None"),
    "a huge number": ({**asdict(PLAN), "bound": 10**400}, "is not a plan"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_plan_is_refused(tmp_path: Path, case: str) -> None:
    content, cause = BAD[case]
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(content))
    with pytest.raises(PlanError) as raised:
        read_plan(path)
    assert cause in raised.value.cause
    assert raised.value.hint == "make the plan again: python -m harness plan solve"


@pytest.mark.parametrize("text", ["", "{", '{"version": NaN}', "[" * 100_000])
def test_what_is_no_json_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(PlanError, match="cannot be read"):
        read_plan(path)


def test_a_huge_or_missing_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PlanError, match="cannot be read"):
        read_plan(tmp_path / "none.json")
    write_plan(PLAN, tmp_path / "plan.json")
    monkeypatch.setattr("harness.planner.plan_file.MAX_BYTES", 10)
    with pytest.raises(PlanError, match="is larger than"):
        read_plan(tmp_path / "plan.json")


def test_a_plan_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PlanError, match="cannot be written"):
        write_plan(PLAN, tmp_path / "file" / "plan.json")
    with pytest.raises(PlanError, match="cannot be written"):
        write_csv(PLAN, tmp_path / "file")


def test_csv_files_have_hosts_machines_and_moves(tmp_path: Path) -> None:
    paths = write_csv(PLAN, tmp_path)
    hosts, machines, moves = (pd.read_csv(path, keep_default_na=False) for path in paths)
    assert hosts[["host", "machines", "peak_cpu"]].to_numpy().tolist() == [["h1", 1, 0.5]]
    assert machines.to_dict("records") == [{"machine": "vm-1", "host": "h1", "rack": "r1"}]
    assert moves.to_dict("records") == [{"machine": "vm-1", "from": "", "to": "h1"}]
    empty = write_csv(replace(PLAN, moves=()), tmp_path / "empty")
    assert empty[2].read_text() == "machine,from,to\n"


def test_names_that_look_like_formulas_are_guarded(tmp_path: Path) -> None:
    name = '=HYPERLINK("http://x","y")'
    host = replace(HOST, name="@host", machines=(name,))
    plan = replace(PLAN, hosts=(host,), moves=(Move(name, "-1+1", "@host"),))
    hosts, machines, moves = (pd.read_csv(path) for path in write_csv(plan, tmp_path))
    assert hosts.loc[0, "host"] == "'@host"
    assert machines.loc[0, "machine"] == f"'{name}"
    assert moves.iloc[0].tolist() == [f"'{name}", "'-1+1", "'@host"]
