"""pytest-benchmark's JSON as a run: every round is a sample, in seconds.

A file of --benchmark-json holds the rounds; a saved one only by --benchmark-save-data. Without them
a benchmark is one sample, its median, which is told from rounds by the parameter `statistic`; how
many rounds it is of is a sample of its own, `<metric>.rounds`. A benchmark's other parameters are
its test's; what the test put into extra_info is left out. The whole file is one boot: rounds of one
process depend on each other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from harness.errors import ResultError
from harness.results.exchange.foreign import Foreign, Source
from harness.results.schema import Parameter, RunFacts, Sample

_WANTED = "pytest-benchmark's JSON"


def read(source: Source) -> Foreign:
    """Raises ResultError when it is no such file, or holds no benchmark."""
    found = source.json(_WANTED)
    benchmarks = found.get("benchmarks")
    if not isinstance(benchmarks, list) or not benchmarks:
        raise source.wrong(_WANTED, "there are no benchmarks in it")
    start = _start(source, found)
    facts = _facts(source, found, start)
    samples: list[Sample] = []
    without = 0
    for one in benchmarks:
        try:
            made = list(_samples(one, facts, start))
            without += "data" not in one["stats"]
        except ResultError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise source.wrong(_WANTED, f"a benchmark cannot be read ({error!r})") from error
        samples += made
    if without:
        facts["notes"].append(
            f"{without} of {len(benchmarks)} benchmarks came without their rounds "
            "(--benchmark-save-data keeps them): one sample each, the median"
        )
    return Foreign(facts, samples)


def _samples(one: Mapping[str, Any], facts: RunFacts, start: datetime) -> Iterator[Sample]:
    stats, name = one["stats"], str(one["name"])
    metric = f"benchmark.{name.partition('[')[0]}"
    parameters = {str(key): _plain(value) for key, value in (one["params"] or {}).items()}

    def sample(metric: str, value: Any, unit: str, better: str, batch: int, **more: Any) -> Sample:
        return Sample(
            metric=metric,
            value=value,
            unit=unit,
            better=better,
            run=facts["run"],
            suite=str(one.get("group") or "benchmark"),
            test=str(one["fullname"]),
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
        yield sample(f"{metric}.rounds", stats["rounds"], "rounds", "", 0, statistic="median")


def _plain(value: object) -> Parameter:
    """A test's parameter may be anything that JSON can say."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return value
    return json.dumps(value, sort_keys=True)


def _start(source: Source, found: Mapping[str, Any]) -> datetime:
    try:
        start = datetime.fromisoformat(found["datetime"])
    except (KeyError, TypeError, ValueError) as error:
        raise source.wrong(_WANTED, "it does not say when it was measured") from error
    return start if start.tzinfo else start.replace(tzinfo=UTC)


def _facts(source: Source, found: Mapping[str, Any], start: datetime) -> RunFacts:
    """Of machine_info and commit_info, as far as they say it."""
    machine, commit = found.get("machine_info") or {}, found.get("commit_info") or {}
    if not isinstance(machine, dict) or not isinstance(commit, dict):
        raise source.wrong(_WANTED, "machine_info or commit_info is no object")
    cpu = machine.get("cpu")
    cpu = cpu if isinstance(cpu, dict) else {"brand_raw": str(cpu or "")}
    stable = [cpu.get("brand_raw"), cpu.get("count"), machine.get("system"), machine.get("release")]
    made: RunFacts = {
        "run": source.run_id(start),
        "start": start.isoformat(),
        "fingerprint": hashlib.sha256(json.dumps(stable).encode()).hexdigest()[:12],
        "complete": True,
        "notes": [
            f"imported from {source.path.name} (pytest-benchmark {found.get('version', '?')})"
        ],
    }
    revision = str(commit.get("id") or "")
    if revision not in ("", "unversioned", "unknown"):
        made["commit"] = f"{revision}-dirty" if commit.get("dirty") else revision
    if isinstance(cpus := cpu.get("count"), int):
        made["cpus"] = cpus
    if version := machine.get("python_version"):
        made["versions"] = {"python": str(version)}
    texts = {
        "hypervisor": source.hypervisor,
        "hostname": machine.get("node"),
        "cpu_model": cpu.get("brand_raw"),
        "kernel": machine.get("release"),
    }
    made.update({name: str(text) for name, text in texts.items() if text})  # type: ignore[typeddict-item]
    return made
