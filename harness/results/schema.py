"""The schema of samples and of a run's facts, and their representation in Parquet."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Literal, TypedDict, get_args

import pyarrow as pa

from harness.errors import ResultError

SCHEMA_VERSION = 4
VERSION_KEY = b"harness.schema_version"
FACTS_KEY = b"harness.facts"
RUN_KEY = b"harness.run"

Parameter = str | int | float

Better = Literal["lower", "higher", "none"]
BETTER: tuple[str, ...] = get_args(Better)


class RunFacts(TypedDict, total=False):
    """Facts of a whole run, as JSON values. An unknown fact is omitted.

    host: its name ("local", "emulated", "ssh://user@name"). why: one line, why the host was chosen.
    image: digests of the images that its guests booted, ", " between them.
    memory: bytes. mitigations: name -> state. start, end: ISO 8601, UTC. command: the command
    line. outcomes: pytest outcome ("passed", "failed", "skipped", "error", ...) -> count.
    stages: stage of the session -> seconds. profile: "short" or "full". complete: False when the
    session did not close the run. lost_lines: number of spool lines that could not be read.
    attempts: item (see Sample) -> number of its last attempt, for each that ran more than once.
    failures: node id -> "failed" or "error"; the first ones only.
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
    attempts: dict[str, int]
    failures: dict[str, str]


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured value with its host, image, commit and parameters.

    A figure is identified by suite, test, metric, parameters, unit and better, on one hypervisor,
    backend, host and image. test: the test's node id with its own parameters, without those that
    the plugin adds (hypervisor, boot). item: the node id with all of them.
    value: finite, in `unit`. better: "lower", "higher" or "none". backend: "vmx", "svm",
    "pvm", "emulated", "lguest" or "none". host: fingerprint of the host's stable facts.
    image: digest of the guests' image. time: UTC. boot, batch: from 0; the values of a boot depend
    on each other, so statistics resample boots, not batches. attempt: of the item, from 1; only
    the last one counts.

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
    item: str = ""

    def __post_init__(self) -> None:
        for name in _TEXT_FIELDS:
            if not _is_text(getattr(self, name)):
                raise _invalid(self, name, "text that UTF-8 can encode")
        if not self.metric:
            raise _invalid(self, "metric", "a name")
        if self.better not in BETTER:
            raise _invalid(self, "better", 'one of "lower", "higher", "none"')
        if not _is_number(self.value):
            raise _invalid(self, "value", "a finite number")
        for name, minimum in (("boot", 0), ("batch", 0), ("attempt", 1)):
            number = getattr(self, name)
            is_integer = isinstance(number, int) and not isinstance(number, bool)
            if not is_integer or not minimum <= number < 2**31:
                raise _invalid(self, name, f"an integer from {minimum}")
        if not isinstance(self.time, datetime) or self.time.utcoffset() is None:
            raise _invalid(self, "time", "a datetime with a time zone")
        if not isinstance(self.parameters, Mapping):
            raise _invalid(self, "parameters", "a flat mapping")
        for key, entry in self.parameters.items():
            if not isinstance(key, str) or not (_is_text(entry) or _is_number(entry)):
                raise _invalid(self, "parameters", f"text or finite numbers by name (see {key!r})")

    def row(self) -> dict[str, Any]:
        """The sample as a table row: parameters as canonical JSON, time in UTC."""
        row = {field.name: getattr(self, field.name) for field in fields(self)}
        row["value"] = float(self.value)
        row["parameters"] = encode_parameters(self.parameters)
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
    "item",
)


def _is_number(value: object) -> bool:
    # bool is a subclass of int, but a measured value is never a bool.
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()  # Parquet text is UTF-8: it cannot hold the surrogate of an odd file name
    except UnicodeEncodeError:
        return False
    return True


def _invalid(sample: Sample, field: str, expected: str) -> ResultError:
    return ResultError(
        f"sample {sample.metric!r} of test {sample.test!r}: {field} must be {expected}, "
        f"not {getattr(sample, field)!r}",
        hint="record measured values only; omit a value that could not be measured",
        stage="run",
    )


def encode_parameters(parameters: Mapping[str, Parameter]) -> str:
    """Canonical JSON (sorted keys), so that equal parameters give equal text to group by."""
    return json.dumps(dict(parameters), sort_keys=True, ensure_ascii=False, allow_nan=False)


def decode_parameters(parameters: str) -> dict[str, Parameter]:
    """The inverse of `encode_parameters`. Raises ResultError when the text is not an object."""
    try:
        decoded = json.loads(parameters)
    except ValueError:
        decoded = None
    if not isinstance(decoded, dict):
        raise ResultError(
            f"parameters must be a JSON object, not {parameters!r}",
            hint="restore the run file, or exclude its run",
        )
    return decoded


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
        ("item", pa.string()),
    ]
)
COLUMNS = tuple(SCHEMA.names)


def encode_facts(facts: RunFacts) -> str:
    """The facts as JSON. Raises ResultError when JSON cannot represent a fact."""
    try:
        return json.dumps(dict(facts), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ResultError(
            f"the run's facts are not JSON: {error}",
            hint="use text, finite numbers, lists and mappings only",
        ) from error


_FACT_TYPES: dict[str, type] = {
    **dict.fromkeys(("boot", "cpus", "memory", "exit_status", "lost_lines"), int),
    **dict.fromkeys(("emulated", "complete"), bool),
    **dict.fromkeys(
        ("mitigations", "versions", "outcomes", "stages", "attempts", "failures"), dict
    ),
    "notes": list,
}


def validate_facts(facts: object) -> RunFacts:
    """Check the types of facts from a file. Raises ValueError when a fact has another type."""
    if not isinstance(facts, dict):
        raise ValueError("no JSON object")
    for name in RunFacts.__annotations__:
        if name in facts and not isinstance(facts[name], _FACT_TYPES.get(name, str)):
            raise ValueError(f"{name} is {facts[name]!r}")
    if not all(type(number) is int for number in facts.get("attempts", {}).values()):
        raise ValueError(f"attempts is {facts['attempts']!r}")
    if not all(isinstance(outcome, str) for outcome in facts.get("failures", {}).values()):
        raise ValueError(f"failures is {facts['failures']!r}")
    for name in ("start", "end"):
        if name in facts:
            datetime.fromisoformat(facts[name])
    return facts  # type: ignore[return-value]


def schema_with_metadata(run: str, facts: RunFacts) -> pa.Schema:
    """The schema with version, run id and facts in its metadata."""
    return SCHEMA.with_metadata(
        {
            VERSION_KEY: str(SCHEMA_VERSION).encode(),
            RUN_KEY: run.encode(),
            FACTS_KEY: encode_facts(facts).encode(),
        }
    )
