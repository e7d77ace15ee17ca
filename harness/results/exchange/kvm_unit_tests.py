"""Import of kvm-unit-tests output: the result lines of run_tests.sh, and the log of vmexit.

    PASS apic-split (56 tests, 1 skipped)        result, with the counts of its checks
    FAIL emulator (timeout; duration=90s)        result, with the reason
    SKIP pku (test marked as manual run only)
    cpuid 1286                                   vmexit log: cycles an operation

Results become the run's outcomes; counts become samples too; failed tests are listed in the notes.
Every line with a name and an integer counts as vmexit output, so import the log of vmexit
(logs/vmexit*.log), not the logs of all tests. The cycles are means from kvm-unit-tests, without a
subtracted control.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from harness.results.exchange.imported_run import ImportedRun, ImportSource
from harness.results.schema import RunFacts, Sample

_FORMAT = "output of kvm-unit-tests"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_RESULT = re.compile(r"(PASS|FAIL|SKIP) ([\w.+-]+)(?: +\((.*)\))? *")
_COUNTS = re.compile(
    r"(?P<tests>\d+) tests?(?:, (?P<failures>\d+) unexpected failures)?"
    r"(?:, (?P<expected_failures>\d+) expected failures)?(?:, (?P<skipped>\d+) skipped)?"
)
_CYCLES = re.compile(r"([a-z][\w+.:-]*) (\d+)")
_OUTCOMES = {"PASS": "passed", "FAIL": "failed", "SKIP": "skipped"}
_DEFAULT_HYPERVISOR = "qemu"  # run_tests.sh starts it


def read(source: ImportSource) -> ImportedRun:
    """Raises ResultError when no line is output of kvm-unit-tests."""
    text = _COLOUR.sub("", source.data.decode("utf-8", errors="replace"))
    lines = [line.rstrip() for line in text.splitlines()]
    results = [match for line in lines if (match := _RESULT.fullmatch(line))]
    figures = [match for line in lines if (match := _CYCLES.fullmatch(line))]
    if not results and not figures:
        raise source.format_error(
            _FORMAT, "no line has the form `PASS name (n tests)` or `name cycles` (of vmexit)"
        )
    start = datetime.fromtimestamp(source.modified, UTC)
    failed = [
        f"failed: {result[2]}" + (f" ({result[3]})" if result[3] else "")
        for result in results
        if result[1] == "FAIL"
    ]
    facts: RunFacts = {
        "run": source.run_id(start),
        "start": start.isoformat(),
        "hypervisor": source.hypervisor or _DEFAULT_HYPERVISOR,
        "outcomes": dict(Counter(_OUTCOMES[result[1]] for result in results)),
        "complete": True,
        "notes": [
            f"imported from {source.path.name} (kvm-unit-tests) with the file's time",
            *failed,
        ],
    }
    return ImportedRun(facts, [*_counts(results, facts, start), *_cycles(figures, facts, start)])


def _counts(results: list[re.Match[str]], facts: RunFacts, start: datetime) -> Iterator[Sample]:
    for result in results:
        if counts := _COUNTS.fullmatch(result[3] or ""):
            for kind, number in counts.groupdict(default="0").items():
                better = "lower" if kind == "failures" else "none"
                more = {"unit": "tests", "better": better, "parameters": {"name": result[2]}}
                yield _sample(f"kvm_unit_tests.{kind}", number, result[2], facts, start, **more)


def _cycles(figures: list[re.Match[str]], facts: RunFacts, start: datetime) -> Iterator[Sample]:
    batches: Counter[str] = Counter()
    for figure in figures:
        name = figure[1]
        more: dict[str, Any] = {"unit": "cycles", "better": "lower", "batch": batches[name]}
        batches[name] += 1
        yield _sample(f"kvm_unit_tests.{name}", figure[2], f"vmexit_{name}", facts, start, **more)


def _sample(
    metric: str, value: str, test: str, facts: RunFacts, start: datetime, **more: Any
) -> Sample:
    return Sample(
        metric=metric,
        value=float(value),
        run=facts["run"],
        suite="kvm_unit_tests",
        test=f"kvm-unit-tests::{test}",
        item=f"kvm-unit-tests::{test}",
        hypervisor=facts["hypervisor"],
        backend="",
        host="",
        image="",
        commit="",
        time=start,
        **{"parameters": {}, **more},
    )
