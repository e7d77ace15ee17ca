"""Export of a run as CSV (samples) and as JSON (facts and samples), and import of that JSON.

    {"format": "pytest-hypervisor", "version": 4, "facts": {...}, "samples": [{...}, ...]}

All columns of schema.COLUMNS are included. Times are ISO 8601 in UTC; parameters are JSON text in
CSV and objects in JSON. The import restores the exported run under its name, without earlier
attempts and values that are not finite.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, cast

import pandas as pd

from harness.errors import ResultError
from harness.results.csv_guard import guard_formulas
from harness.results.exchange.imported_run import ImportedRun, ImportSource
from harness.results.migrations import migrate_row
from harness.results.schema import (
    COLUMNS,
    SCHEMA_VERSION,
    RunFacts,
    Sample,
    decode_parameters,
    encode_facts,
    validate_facts,
)

_FORMAT = "pytest-hypervisor"
_EXPECTED = "a run exported as JSON"


def csv(_facts: RunFacts, frame: pd.DataFrame) -> str:
    """A header, and one line for each sample."""
    return str(guard_formulas(_with_iso_times(frame)).to_csv(index=False, lineterminator="\n"))


def as_json(facts: RunFacts, frame: pd.DataFrame) -> str:
    """One object, with one line for each sample."""
    rows: list[dict[str, Any]] = _with_iso_times(frame).to_dict("records")  # type: ignore[assignment]
    lines = (
        json.dumps({**row, "parameters": decode_parameters(row["parameters"])}) for row in rows
    )
    samples = ",\n".join(lines)
    return (
        f'{{"format": "{_FORMAT}", "version": {SCHEMA_VERSION},\n"facts": {encode_facts(facts)},\n'
        f'"samples": [\n{samples}\n]}}\n'
    )


def _with_iso_times(frame: pd.DataFrame) -> pd.DataFrame:
    times = [moment.isoformat() for moment in frame["time"].dt.to_pydatetime()]
    return frame.assign(time=times)[list(COLUMNS)]


def read(source: ImportSource) -> ImportedRun:
    """Raises ResultError when the file has another format, or a newer schema version."""
    content = source.json(_EXPECTED)
    version, facts, rows = (content.get(name) for name in ("version", "facts", "samples"))
    if content.get("format") != _FORMAT or not isinstance(version, int) or version < 1:
        raise source.format_error(_EXPECTED, f"it has no format and version of {_FORMAT}")
    if version > SCHEMA_VERSION:
        raise ResultError(
            f"{source.path}: schema version is {version}, this harness reads up to "
            f"{SCHEMA_VERSION}",
            hint="update the harness: pip install --upgrade pytest-hypervisor",
        )
    if not isinstance(facts, dict) or not isinstance(facts.get("run"), str):
        raise source.format_error(_EXPECTED, "its facts have no run id")
    try:
        validate_facts(facts)
    except ValueError as error:
        raise source.format_error(_EXPECTED, f"its facts are invalid ({error})") from error
    if not isinstance(rows, list):
        raise source.format_error(_EXPECTED, "it has no samples")
    samples = [_sample(source, row, version) for row in rows]
    if other := next((one for one in samples if one.run != facts["run"]), None):
        raise source.format_error(
            _EXPECTED, f"a sample is of run {other.run!r}, not {facts['run']!r}"
        )
    return ImportedRun(cast(RunFacts, facts), samples)


def _sample(source: ImportSource, row: Any, version: int) -> Sample:
    try:
        fields = migrate_row(row, version)
        fields["time"] = datetime.fromisoformat(fields["time"])
        return Sample(**fields)
    except ResultError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise source.format_error(_EXPECTED, f"a sample is malformed ({error})") from error
