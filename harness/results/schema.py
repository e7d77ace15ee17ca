"""What one sample is, what is known of a run, and how both lie in a Parquet file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, TypedDict

import pyarrow as pa

from harness.errors import ResultError

SCHEMA_VERSION = 3
VERSION_KEY = b"harness.schema_version"
FACTS_KEY = b"harness.facts"
RUN_KEY = b"harness.run"

Parameter = str | int | float

BETTER = ("lower", "higher", "none")


class RunFacts(TypedDict, total=False):
    """What holds for a whole run; JSON-able. Unknown facts are left out, never guessed.

    host: its name ("local", "emulated", "ssh://user@name"); why: one line, why it was taken.
    memory: bytes. mitigations: name -> state. start, end: ISO 8601, UTC. command: the command
    line. outcomes: pytest outcome ("passed", "failed", "skipped", "error", ...) -> count.
    stages: stage of the session -> seconds. profile: "short" or "full". complete: False when the
    session did not close the run itself; lost_lines: how many spool lines were unreadable then.
    """

    run: str
    hypervisor: str
    host: str
    hostname: str
    why: str
    emulated: bool
    backend: str
    fingerprint: str
    cpu_model: str
    cpus: int
    memory: int
    kernel: str
    microcode: str
    governor: str
    smt: str
    mitigations: dict[str, str]
    image: str
    commit: str
    versions: dict[str, str]
    command: str
    profile: str
    start: str
    end: str
    exit_status: int
    outcomes: dict[str, int]
    stages: dict[str, float]
    notes: list[str]
    complete: bool
    lost_lines: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured value with all that says how it came about.

    value: finite, in `unit`. better: "lower", "higher" or "none". backend: "vmx", "svm",
    "pvm", "emulated", "lguest" or "none". host: the fingerprint of the host's stable facts.
    image: the guest image's digest. time: UTC. boot, batch: from 0; one boot is one cluster of
    dependent values, so statistics resample boots, not batches. attempt: from 1; a test that is run
    once more is at its second.

    Raises ResultError when a field has the wrong type, or a number is NaN or infinite.
    """

    metric: str
    value: float
    unit: str
    better: str
    run: str
    suite: str
    test: str
    parameters: Mapping[str, Parameter]
    hypervisor: str
    backend: str
    host: str
    image: str
    commit: str
    time: datetime
    boot: int = 0
    batch: int = 0
    attempt: int = 1

    def __post_init__(self) -> None:
        for name in _TEXT_FIELDS:
            if not _is_text(getattr(self, name)):
                raise _wrong(self, name, "text that UTF-8 can say")
        if not self.metric:
            raise _wrong(self, "metric", "a name")
        if self.better not in BETTER:
            raise _wrong(self, "better", 'one of "lower", "higher", "none"')
        if not _is_number(self.value):
            raise _wrong(self, "value", "a finite number")
        for name, least in (("boot", 0), ("batch", 0), ("attempt", 1)):
            number = getattr(self, name)
            whole = isinstance(number, int) and not isinstance(number, bool)
            if not whole or not least <= number < 2**31:
                raise _wrong(self, name, f"a whole number from {least}")
        if not isinstance(self.time, datetime) or self.time.utcoffset() is None:
            raise _wrong(self, "time", "a datetime with a time zone")
        if not isinstance(self.parameters, Mapping):
            raise _wrong(self, "parameters", "a flat mapping")
        for key, entry in self.parameters.items():
            if not isinstance(key, str) or not (_is_text(entry) or _is_number(entry)):
                raise _wrong(self, "parameters", f"text or finite numbers by name (see {key!r})")

    def row(self) -> dict[str, Any]:
        """As a row of the table: parameters as canonical JSON, time in UTC."""
        row = {field.name: getattr(self, field.name) for field in fields(self)}
        row["value"] = float(self.value)
        row["parameters"] = canonical(self.parameters)
        row["time"] = self.time.astimezone(UTC)
        return row


_TEXT_FIELDS = (
    "metric",
    "unit",
    "better",
    "run",
    "suite",
    "test",
    "hypervisor",
    "backend",
    "host",
    "image",
    "commit",
)


def _is_number(value: object) -> bool:
    # bool is an int to Python; as a measured value it is a mistake.
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()  # a lone surrogate (a file name that is no UTF-8) fits in no Parquet file
    except UnicodeEncodeError:
        return False
    return True


def _wrong(sample: Sample, field: str, wanted: str) -> ResultError:
    return ResultError(
        f"sample {sample.metric!r} of test {sample.test!r}: {field} must be {wanted}, "
        f"not {getattr(sample, field)!r}",
        hint="Record a measured value; leave out what could not be measured.",
        stage="run",
    )


def canonical(parameters: Mapping[str, Parameter]) -> str:
    """Parameters as JSON with sorted keys: equal parameters give equal text, fit to group by."""
    return json.dumps(dict(parameters), sort_keys=True, ensure_ascii=False, allow_nan=False)


def decode(parameters: str) -> dict[str, Parameter]:
    """The inverse of `canonical`. Raises ResultError when the text is no JSON object."""
    try:
        found = json.loads(parameters)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ResultError(f"parameters are no JSON object: {parameters!r}")
    return found


SCHEMA = pa.schema(
    [
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("unit", pa.string()),
        ("better", pa.string()),
        ("run", pa.string()),
        ("suite", pa.string()),
        ("test", pa.string()),
        ("parameters", pa.string()),
        ("hypervisor", pa.string()),
        ("backend", pa.string()),
        ("host", pa.string()),
        ("image", pa.string()),
        ("commit", pa.string()),
        ("time", pa.timestamp("us", tz="UTC")),
        ("boot", pa.int32()),
        ("batch", pa.int32()),
        ("attempt", pa.int32()),
    ]
)
COLUMNS = tuple(SCHEMA.names)

# By version: the columns that its rows lack to be of the next one, and what these are in all of
# them. A spool has no version: its lines are read by the same table.
MIGRATIONS: Mapping[int, Mapping[str, Parameter]] = {1: {"attempt": 1}, 2: {}}
# Before this version a sample that is neither better high nor low had "" as `better`, now "none".
BETTER_IS_NAMED = 3


def lacking(version: int) -> dict[str, Parameter]:
    """What rows of a version lack to be of SCHEMA_VERSION, and what it is in all of them."""
    steps = range(version, SCHEMA_VERSION)
    return {name: value for step in steps for name, value in MIGRATIONS[step].items()}


def check_facts(facts: RunFacts) -> str:
    """The facts as JSON. Raises ResultError when they hold what JSON cannot say."""
    try:
        return json.dumps(dict(facts), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ResultError(
            f"the run's facts are not JSON: {error}",
            hint="Give text, finite numbers, lists and mappings only.",
        ) from error


_FACT_KINDS: dict[str, type] = {
    **dict.fromkeys(("boot", "cpus", "memory", "exit_status", "lost_lines"), int),
    **dict.fromkeys(("emulated", "complete"), bool),
    **dict.fromkeys(("mitigations", "versions", "outcomes", "stages"), dict),
    "notes": list,
}


def sound_facts(facts: object) -> RunFacts:
    """Facts that somebody else wrote. Raises ValueError when one is of another kind than ours."""
    if not isinstance(facts, dict):
        raise ValueError("no JSON object")
    for name in RunFacts.__annotations__:
        kind = _FACT_KINDS.get(name, str)
        if name in facts and not isinstance(facts[name], kind):
            raise ValueError(f"{name} is {facts[name]!r}")
    for name in ("start", "end"):
        if name in facts:
            datetime.fromisoformat(facts[name])
    return facts  # type: ignore[return-value]


def with_metadata(run: str, facts: RunFacts) -> pa.Schema:
    """The schema with version, run id and facts in its metadata."""
    return SCHEMA.with_metadata(
        {
            VERSION_KEY: str(SCHEMA_VERSION).encode(),
            RUN_KEY: run.encode(),
            FACTS_KEY: check_facts(facts).encode(),
        }
    )
