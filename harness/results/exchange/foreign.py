"""What the readers of other tools' files have in common."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.errors import ResultError
from harness.results.schema import RunFacts, Sample


@dataclass(frozen=True)
class Source:
    """A file that is to come in. changed: when it was, in seconds since 1970. hypervisor: what a
    person says of it; "" for nothing."""

    path: Path
    data: bytes
    changed: float
    hypervisor: str = ""

    def run_id(self, start: datetime) -> str:
        """By its time and what it holds: the same file is the same run, however often it comes."""
        digest = hashlib.sha256(self.data).hexdigest()
        return f"{start.astimezone(UTC):%Y%m%dT%H%M%SZ}-{digest[:6]}"

    def json(self, wanted: str) -> dict[str, Any]:
        """Its JSON object. Raises ResultError; wanted: what it ought to be."""
        try:
            found = json.loads(self.data)
        except ValueError as error:
            raise self.wrong(wanted, f"no JSON ({error})") from error
        if not isinstance(found, dict):
            raise self.wrong(wanted, "no JSON object")
        return found

    def wrong(self, wanted: str, why: str) -> ResultError:
        return ResultError(
            f"{self.path} is not {wanted}: {why}", hint="Name another file, or another --format."
        )


@dataclass(frozen=True)
class Foreign:
    """A run that came about elsewhere. facts: with its run id."""

    facts: RunFacts
    samples: Sequence[Sample]
