"""Types shared by the readers of other tools' files."""

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
class ImportSource:
    """A file to import.

    modified: its modification time, in seconds since 1970. hypervisor: from the command line; ""
    when not given.
    """

    path: Path
    data: bytes
    modified: float
    hypervisor: str = ""

    def run_id(self, start: datetime) -> str:
        """A run id from the start time and the content: a file has the same id each time."""
        digest = hashlib.sha256(self.data).hexdigest()
        return f"{start.astimezone(UTC):%Y%m%dT%H%M%SZ}-{digest[:6]}"

    def json(self, expected: str) -> dict[str, Any]:
        """The file as a JSON object. expected: its format, for the error. Raises ResultError."""
        try:
            content = json.loads(self.data)
        except ValueError as error:
            raise self.format_error(expected, f"no JSON ({error})") from error
        if not isinstance(content, dict):
            raise self.format_error(expected, "no JSON object")
        return content

    def format_error(self, expected: str, reason: str) -> ResultError:
        return ResultError(
            f"{self.path} is not {expected}: {reason}",
            hint="name another file, or use another --format",
        )


@dataclass(frozen=True)
class ImportedRun:
    """A run of another tool. facts: with its run id."""

    facts: RunFacts
    samples: Sequence[Sample]
