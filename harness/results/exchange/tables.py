"""A run as CSV (its samples) and as JSON (its facts and samples), and such JSON as a run again.

    {"format": "pytest-hypervisor", "version": 2, "facts": {...}, "samples": [{...}, ...]}

All columns of schema.COLUMNS; times are ISO 8601 in UTC, parameters text in CSV and objects in
JSON. A run that comes in by JSON is the run that went out, by the same name, less what took no part
in its figures: earlier attempts, and values that are no numbers.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, cast

import pandas as pd

from harness.errors import ResultError
from harness.results.exchange.foreign import Foreign, Source
from harness.results.schema import (
    BETTER_IS_NAMED,
    COLUMNS,
    SCHEMA_VERSION,
    RunFacts,
    Sample,
    check_facts,
    decode,
    lacking,
    sound_facts,
)

_FORMAT = "pytest-hypervisor"
_WANTED = "a run of ours as JSON"


def csv(_facts: RunFacts, frame: pd.DataFrame) -> str:
    """A header and a line a sample."""
    return str(_times(frame).to_csv(index=False, lineterminator="\n"))


def as_json(facts: RunFacts, frame: pd.DataFrame) -> str:
    """One object, a sample a line."""
    rows: list[dict[str, Any]] = _times(frame).to_dict("records")  # type: ignore[assignment]
    lines = (json.dumps({**row, "parameters": decode(row["parameters"])}) for row in rows)
    samples = ",\n".join(lines)
    return (
        f'{{"format": "{_FORMAT}", "version": {SCHEMA_VERSION},\n"facts": {check_facts(facts)},\n'
        f'"samples": [\n{samples}\n]}}\n'
    )


def _times(frame: pd.DataFrame) -> pd.DataFrame:
    times = [moment.isoformat() for moment in frame["time"].dt.to_pydatetime()]
    return frame.assign(time=times)[list(COLUMNS)]


def read(source: Source) -> Foreign:
    """Raises ResultError when it is nothing of ours, or of a newer harness."""
    found = source.json(_WANTED)
    version, facts, rows = (found.get(name) for name in ("version", "facts", "samples"))
    if found.get("format") != _FORMAT or not isinstance(version, int) or version < 1:
        raise source.wrong(_WANTED, "it does not say so")
    if version > SCHEMA_VERSION:
        raise ResultError(
            f"{source.path}: schema version is {version}, this harness reads up to "
            f"{SCHEMA_VERSION}",
            hint="Update the harness: pip install --upgrade pytest-hypervisor.",
        )
    if not isinstance(facts, dict) or not isinstance(facts.get("run"), str):
        raise source.wrong(_WANTED, "there are no facts that name the run")
    try:
        sound_facts(facts)
    except ValueError as error:
        raise source.wrong(_WANTED, f"its facts cannot be read ({error})") from error
    if not isinstance(rows, list):
        raise source.wrong(_WANTED, "there are no samples")
    samples = [_sample(source, row, version) for row in rows]
    if strange := next((one for one in samples if one.run != facts["run"]), None):
        raise source.wrong(_WANTED, f"a sample is of run {strange.run!r}, not {facts['run']!r}")
    return Foreign(cast(RunFacts, facts), samples)


def _sample(source: Source, row: Any, version: int) -> Sample:
    try:
        fields = {**lacking(version), **row, "time": datetime.fromisoformat(row["time"])}
        if version < BETTER_IS_NAMED:
            fields["better"] = fields["better"] or "none"
        return Sample(**fields)
    except ResultError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise source.wrong(_WANTED, f"a sample cannot be read ({error})") from error
