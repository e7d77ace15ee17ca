"""Import of pytest-benchmark JSON: every round becomes a sample in seconds.

A file of --benchmark-json contains the rounds; a saved file does so only with
--benchmark-save-data. Without rounds the median becomes one sample, with the parameter `statistic`;
the number of rounds becomes the sample `<metric>.rounds`. The other parameters are those of the
test; extra_info is ignored. The whole file is one boot, since rounds of one process depend on each
other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from harness.errors import ResultError
from harness.results.exchange.imported_run import ImportedRun, ImportSource
from harness.results.schema import Parameter, RunFacts, Sample

_FORMAT = "pytest-benchmark JSON"


def read(source: ImportSource) -> ImportedRun:
    """Raises ResultError when the file has another format, or no benchmarks."""
    content = source.json(_FORMAT)
    benchmarks = content.get("benchmarks")
    if not isinstance(benchmarks, list) or not benchmarks:
        raise source.format_error(_FORMAT, "it has no benchmarks")
    start = _start(source, content)
    facts = _facts(source, content, start)
    samples: list[Sample] = []
    without_rounds = 0
    for benchmark in benchmarks:
        try:
            samples += _samples(benchmark, facts, start)
            without_rounds += "data" not in benchmark["stats"]
        except ResultError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise source.format_error(_FORMAT, f"a benchmark is malformed ({error!r})") from error
    if without_rounds:
        facts["notes"].append(
            f"{without_rounds} of {len(benchmarks)} benchmarks have no rounds and become one "
            "sample each, the median (use --benchmark-save-data to save rounds)"
        )
    return ImportedRun(facts, samples)


def _samples(benchmark: Mapping[str, Any], facts: RunFacts, start: datetime) -> Iterator[Sample]:
    stats, name = benchmark["stats"], str(benchmark["name"])
    metric = f"benchmark.{name.partition('[')[0]}"
    parameters = {str(key): _scalar(value) for key, value in (benchmark["params"] or {}).items()}

    def sample(metric: str, value: Any, unit: str, better: str, batch: int, **more: Any) -> Sample:
        return Sample(
            metric=metric,
            value=value,
            unit=unit,
            better=better,
            run=facts["run"],
            suite=str(benchmark.get("group") or "benchmark"),
            test=str(benchmark["fullname"]),
            item=str(benchmark["fullname"]),
            parameters={**parameters, **more},
            hypervisor=facts.get("hypervisor", ""),
            backend="",
            host=facts["fingerprint"],
            image="",
            commit=facts.get("commit", ""),
            time=start,
            batch=batch,
        )

    if "data" in stats:
        for batch, value in enumerate(stats["data"]):
            yield sample(metric, value, "s", "lower", batch)
    else:
        yield sample(metric, stats["median"], "s", "lower", 0, statistic="median")
        yield sample(f"{metric}.rounds", stats["rounds"], "rounds", "none", 0, statistic="median")


def _scalar(value: object) -> Parameter:
    """A parameter as text or a number; other JSON values become JSON text."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return value
    return json.dumps(value, sort_keys=True)


def _start(source: ImportSource, content: Mapping[str, Any]) -> datetime:
    try:
        start = datetime.fromisoformat(content["datetime"])
    except (KeyError, TypeError, ValueError) as error:
        raise source.format_error(_FORMAT, "it has no valid datetime") from error
    return start if start.tzinfo else start.replace(tzinfo=UTC)


def _facts(source: ImportSource, content: Mapping[str, Any], start: datetime) -> RunFacts:
    """The facts in machine_info and commit_info."""
    machine, commit = content.get("machine_info") or {}, content.get("commit_info") or {}
    if not isinstance(machine, dict) or not isinstance(commit, dict):
        raise source.format_error(_FORMAT, "machine_info and commit_info must be objects")
    cpu = machine.get("cpu")
    cpu = cpu if isinstance(cpu, dict) else {"brand_raw": str(cpu or "")}
    stable = [cpu.get("brand_raw"), cpu.get("count"), machine.get("system"), machine.get("release")]
    facts: RunFacts = {
        "run": source.run_id(start),
        "start": start.isoformat(),
        "fingerprint": hashlib.sha256(json.dumps(stable).encode()).hexdigest()[:12],
        "complete": True,
        "notes": [
            f"imported from {source.path.name} (pytest-benchmark {content.get('version', '?')})"
        ],
    }
    revision = str(commit.get("id") or "")
    if revision not in ("", "unversioned", "unknown"):
        facts["commit"] = f"{revision}-dirty" if commit.get("dirty") else revision
    if isinstance(cpus := cpu.get("count"), int):
        facts["cpus"] = cpus
    if version := machine.get("python_version"):
        facts["versions"] = {"python": str(version)}
    texts = {
        "hypervisor": source.hypervisor,
        "hostname": machine.get("node"),
        "cpu_model": cpu.get("brand_raw"),
        "kernel": machine.get("release"),
    }
    facts.update({name: str(text) for name, text in texts.items() if text})  # type: ignore[typeddict-item]
    return facts
