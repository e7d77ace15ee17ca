"""Acknowledgements of changes: a person records that a change is known, or resets a series.

    DIR/acknowledged/20261123T091502.012345Z-3fa9c1.json    one acknowledgement, immutable

Each acknowledgement is a file of its own, so several machines can write into one store.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from harness.errors import ResultError
from harness.results.atomic_write import atomic_write

FOLDER = "acknowledged"


@dataclass(frozen=True)
class Acknowledgements:
    """All acknowledgements of a store.

    reasons: (series id, run of the change) -> reason.
    resets: series id -> newest run that no longer counts for the series.
    """

    reasons: dict[tuple[str, str], str] = field(default_factory=dict)
    resets: dict[str, str] = field(default_factory=dict)

    def with_new_ids(self, former_ids: Mapping[str, str]) -> Acknowledgements:
        """With the acknowledgements of former ids for the series that had them.

        former_ids: present id -> former id. Several series may have had one id.
        """
        by_series: dict[str, dict[str, str]] = {}
        for (series, run), reason in self.reasons.items():
            by_series.setdefault(series, {})[run] = reason
        former = {
            (new, run): reason
            for new, old in former_ids.items()
            for run, reason in by_series.get(old, {}).items()
        }
        resets = {new: self.resets[old] for new, old in former_ids.items() if old in self.resets}
        return Acknowledgements({**former, **self.reasons}, {**resets, **self.resets})

    def reason(self, series: str, run: str) -> str:
        """The reason for a change; "" when it is not acknowledged."""
        return self.reasons.get((series, run), "")


def acknowledge(store: Path, series: str, run: str, reason: str, *, reset: bool = False) -> Path:
    """Record that the change of a series at a run is known; return the file.

    reset: no run up to this one counts for the series any more. Raises ResultError when the file
    cannot be written.
    """
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(3)}"
    path = store / FOLDER / f"{name}.json"
    entry = {"series": series, "run": run, "why": reason, "reset": reset}
    try:
        with atomic_write(path, sync=True) as partial:
            partial.write_text(json.dumps(entry), encoding="utf-8")
    except OSError as error:
        raise ResultError(
            f"{path} cannot be written: {error.strerror}",
            hint="make the store writable, or free space there",
        ) from error
    return path


def load_acknowledgements(store: Path, problems: list[str] | None = None) -> Acknowledgements:
    """Read all acknowledgements of a store; the newest one of a change wins.

    problems: receives a line for each file that cannot be read.
    """
    loaded = Acknowledgements()
    for path in sorted((store / FOLDER).glob("*.json")):
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
            series, run, reason = (str(entry[name]) for name in ("series", "run", "why"))
            if entry["reset"]:
                loaded.resets[series] = run
            else:
                loaded.reasons[series, run] = reason
        except (OSError, ValueError, KeyError, TypeError) as error:
            if problems is not None:
                problems.append(f"{path} must be a readable acknowledgement: {error}")
    return loaded
