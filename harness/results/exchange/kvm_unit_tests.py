"""What kvm-unit-tests printed as a run: run_tests.sh's lines, and figures of its vmexit test.

    PASS apic-split (56 tests, 1 skipped)        a test's end, with how many of its checks did what
    FAIL emulator (timeout; duration=90s)        or why
    SKIP pku (test marked as manual run only)
    cpuid 1286                                   vmexit, in its log: cycles an operation

The first three become the run's outcomes; those with counts, samples too, in tests; failed ones are
named in the notes. Every line of a name and a whole number is taken for vmexit's: give its own logs
(logs/vmexit*.log), not those of all tests. Cycles are a mean of kvm-unit-tests' own, less nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from harness.results.exchange.foreign import Foreign, Source
from harness.results.schema import RunFacts, Sample

_WANTED = "output of kvm-unit-tests"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_END = re.compile(r"(PASS|FAIL|SKIP) ([\w.+-]+)(?: +\((.*)\))? *")
_COUNTS = re.compile(
    r"(?P<tests>\d+) tests?(?:, (?P<failures>\d+) unexpected failures)?"
    r"(?:, (?P<expected_failures>\d+) expected failures)?(?:, (?P<skipped>\d+) skipped)?"
)
_CYCLES = re.compile(r"([a-z][\w+.:-]*) (\d+)")
_OUTCOMES = {"PASS": "passed", "FAIL": "failed", "SKIP": "skipped"}
_RUNS_ON = "qemu"  # what run_tests.sh starts


def read(source: Source) -> Foreign:
    """Raises ResultError when not one line is what those tests print."""
    text = _COLOUR.sub("", source.data.decode("utf-8", errors="replace"))
    lines = [line.rstrip() for line in text.splitlines()]
    ends = [found for line in lines if (found := _END.fullmatch(line))]
    figures = [found for line in lines if (found := _CYCLES.fullmatch(line))]
    if not ends and not figures:
        raise source.wrong(
            _WANTED, "no line is `PASS name (n tests)` or, as vmexit prints, `name cycles`"
        )
    start = datetime.fromtimestamp(source.changed, UTC)
    failed = [f"failed: {end[2]}" + (f" ({end[3]})" if end[3] else "") for end in ends if _bad(end)]
    facts: RunFacts = {
        "run": source.run_id(start),
        "start": start.isoformat(),
        "hypervisor": source.hypervisor or _RUNS_ON,
        "outcomes": dict(Counter(_OUTCOMES[end[1]] for end in ends)),
        "complete": True,
        "notes": [
            f"imported from {source.path.name} (kvm-unit-tests); its time is that of the file",
            *failed,
        ],
    }
    return Foreign(facts, [*_counts(ends, facts, start), *_cycles(figures, facts, start)])


def _bad(end: re.Match[str]) -> bool:
    return end[1] == "FAIL"


def _counts(ends: list[re.Match[str]], facts: RunFacts, start: datetime) -> Iterator[Sample]:
    for end in ends:
        if counts := _COUNTS.fullmatch(end[3] or ""):
            for what, number in counts.groupdict(default="0").items():
                better = "lower" if what == "failures" else "none"
                more = {"unit": "tests", "better": better, "parameters": {"name": end[2]}}
                yield _sample(f"kvm_unit_tests.{what}", number, end[2], facts, start, **more)


def _cycles(figures: list[re.Match[str]], facts: RunFacts, start: datetime) -> Iterator[Sample]:
    seen: Counter[str] = Counter()
    for found in figures:
        name = found[1]
        more: dict[str, Any] = {"unit": "cycles", "better": "lower", "batch": seen[name]}
        seen[name] += 1
        yield _sample(f"kvm_unit_tests.{name}", found[2], f"vmexit_{name}", facts, start, **more)


def _sample(
    metric: str, value: str, test: str, facts: RunFacts, start: datetime, **more: Any
) -> Sample:
    return Sample(
        metric=metric,
        value=float(value),
        run=facts["run"],
        suite="kvm_unit_tests",
        test=f"kvm-unit-tests::{test}",
        hypervisor=facts["hypervisor"],
        backend="",
        host="",
        image="",
        commit="",
        time=start,
        **{"parameters": {}, **more},
    )
