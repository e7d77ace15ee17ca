"""What people say of changes: that one is known, or that a series begins anew.

    DIR/acknowledged/20261123T091502.012345Z-3fa9c1.json    one saying, immutable, as runs are

So several machines may write into one store, and nothing is ever said over.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from harness.errors import ResultError
from harness.results.atomic_write import whole

FOLDER = "acknowledged"


@dataclass(frozen=True)
class Acknowledged:
    """known: why, by a series' id and the run of its change. reset: by a series' id the newest run
    that no longer counts."""

    known: dict[tuple[str, str], str] = field(default_factory=dict)
    reset: dict[str, str] = field(default_factory=dict)

    def why(self, series: str, run: str) -> str:
        return self.known.get((series, run), "")


def acknowledge(store: Path, series: str, run: str, why: str, *, reset: bool = False) -> Path:
    """Keep that the change of a series at a run is known; reset: that all runs up to this one no
    longer count for it. Raises ResultError when it cannot be written."""
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(3)}"
    path = store / FOLDER / f"{name}.json"
    said = {"series": series, "run": run, "why": why, "reset": reset}
    try:
        with whole(path, sync=True) as partial:
            partial.write_text(json.dumps(said), encoding="utf-8")
    except OSError as error:
        raise ResultError(f"{path} cannot be written: {error.strerror}") from error
    return path


def acknowledgements(store: Path, problems: list[str] | None = None) -> Acknowledged:
    """All that was said in a store; the newest counts. problems: takes a line for each that cannot
    be read."""
    found = Acknowledged()
    for path in sorted((store / FOLDER).glob("*.json")):
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            series, run, why = (str(said[name]) for name in ("series", "run", "why"))
            if said["reset"]:
                found.reset[series] = run
            else:
                found.known[series, run] = why
        except (OSError, ValueError, KeyError, TypeError) as error:
            if problems is not None:
                problems.append(f"{path} says nothing that can be read: {error}")
    return found
