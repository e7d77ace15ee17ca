"""A plan as a JSON file: written completely, and read strictly."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from harness.errors import PlanError
from harness.planner.plan import PLAN_VERSION, Plan
from harness.results.atomic_write import atomic_write

MAX_BYTES = 512 << 20
_PLAN_AGAIN = "make the plan again: python -m harness plan solve"


def write_plan(plan: Plan, path: Path) -> None:
    """Write a plan. Raises PlanError when the file cannot be written."""
    text = json.dumps(_encoded(plan), ensure_ascii=False, allow_nan=False, indent=1)
    try:
        with atomic_write(path) as partial:
            partial.write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise PlanError(
            f"{path} cannot be written: {error.strerror}", hint="name another file, or free space"
        ) from error


def read_plan(path: Path) -> Plan:
    """Read a plan. Raises PlanError for a file that `write_plan` cannot have written."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise PlanError(
                f"{path} is larger than {MAX_BYTES >> 20} MiB", hint="name the file of a plan"
            )
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, PlanError):
            raise
        raise PlanError(f"{path} cannot be read: {error}", hint=_PLAN_AGAIN) from error
    version = content.get("version") if isinstance(content, dict) else None
    if version != PLAN_VERSION:
        raise PlanError(
            f"{path} has version {str(version)[:40]} of a plan, this harness reads {PLAN_VERSION}",
            hint=_PLAN_AGAIN,
        )
    try:
        plan: Plan = _decoded(Plan, content, "plan")
    except (ValueError, OverflowError) as error:
        raise PlanError(f"{path} is not a plan: {error}", hint=_PLAN_AGAIN) from error
    return plan


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _encoded(value: Any) -> Any:
    """As values of JSON. A number that is not known, NaN, is null."""
    if is_dataclass(value):
        return {field.name: _encoded(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: _encoded(one) for key, one in value.items()}
    if isinstance(value, tuple):
        return [_encoded(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


@cache
def _hints(of: Any) -> dict[str, Any]:
    return get_type_hints(of)


def _decoded(of: Any, value: Any, where: str) -> Any:
    """The inverse of `_encoded`. of: a class or a type. Raises ValueError for another value."""
    origin, arguments = get_origin(of), get_args(of)
    if origin in (types.UnionType, Union):  # of a class and None
        return None if value is None else _decoded(arguments[0], value, where)
    if is_dataclass(of):
        return of(**_decoded_fields(of, value, where))  # type: ignore[operator]
    if origin is tuple and isinstance(value, list):
        return tuple(_decoded(arguments[0], one, where) for one in value)
    if origin is dict and isinstance(value, dict):
        return {
            key: _decoded(arguments[1], one, f"{where}.{key[:80]}") for key, one in value.items()
        }
    if of is float and (value is None or type(value) in (int, float)):
        return math.nan if value is None else float(value)
    # not isinstance: a bool is an int in Python, but not in JSON
    if type(value) is not of:
        raise ValueError(f"{where} is {repr(value)[:80]}, expected {getattr(of, '__name__', of)}")
    return value


def _decoded_fields(of: Any, value: Any, where: str) -> dict[str, Any]:
    hints = _hints(of)
    if not isinstance(value, dict):
        raise ValueError(f"{where} is {repr(value)[:80]}, expected an object")
    for name in value.keys() ^ hints.keys():
        raise ValueError(f"{where}.{name[:80]} is {'missing' if name in hints else 'unknown'}")
    return {name: _decoded(hint, value[name], f"{where}.{name}") for name, hint in hints.items()}
