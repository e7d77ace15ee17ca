"""Takes the run's samples, fills in what a test need not say, and has the reports made."""

# ruff: noqa: PLC0415 - every pytest run loads the plugin: heavy imports wait for a test in need
from __future__ import annotations

import json
import shlex
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import HarnessError
from harness.git import git
from harness.guest.factory import parse_guest_name
from harness.hypervisors.base import Hypervisor
from harness.plugin.benchmark_bridge import Feed
from harness.plugin.session import Session
from harness.results.schema import Parameter, RunFacts, Sample
from harness.results.spool import RunWriter, recover
from harness.urls import without_passwords

if TYPE_CHECKING:
    from harness.plugin.gate import Gate

# of the host's and the guests' utilization, by name or the name's first part
UNITS = {
    **{"cpu": "%", "memory": "MiB", "pressure": "%", "power": "W"},
    **{"disk": "MiB/s", "disk.requests": "1/s"},
}
DISTRIBUTIONS = ("pytest-hypervisor", "pytest", "paramiko", "pandas", "pyarrow", "numpy", "scipy")


@dataclass
class Outputs:
    """What a run left: files, lines for the terminal, and what went wrong.

    comparison: the page. compared: lines on the baseline; regressed: how many figures did;
    has_power: whether one alone could have been shown.
    """

    samples: str = ""
    report: str = ""
    comparison: str = ""
    benchmark: str = ""
    figures: list[str] = field(default_factory=list)
    compared: list[str] = field(default_factory=list)
    regressed: int = 0
    has_power: bool = False
    problems: list[str] = field(default_factory=list)


class Recorder:
    """One run's samples. Safe to use from threads.

    Raises ResultError when the store cannot be written: before anything was measured.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._commit = commit(session.config.rootpath)
        self._ticks: Counter[str] = Counter()  # of each hypervisor
        self._retired: dict[str, float] = {}  # MiB that each keeps
        self._trouble = ""
        problems: list[str] = []
        for path in recover(session.settings.results, problems):  # of sessions that died
            session.progress(f"samples of an interrupted run kept: {path}")
        for problem in problems:
            session.note(problem)
        self._writer = RunWriter(session.settings.results, self._facts(), run=session.run)
        self._feed = Feed(session.config)
        self.outcomes: dict[str, int] = {}

    @property
    def _main(self) -> Hypervisor:
        """What the run is about: guests, else payload guests."""
        found = self._session.hypervisor or self._session.payloads.hypervisor
        assert found is not None  # noqa: S101 - there is no recorder without
        return found

    def sample(
        self,
        metric: str,
        value: float,
        unit: str,
        better: str = "",
        parameters: Mapping[str, Parameter] | None = None,
        *,
        ran_on: Hypervisor | None = None,
        imageless: bool = False,
        hypervisor: str | None = None,
        suite: str = "",
        test: str = "",
        boot: int = 0,
        batch: int = 0,
    ) -> None:
        """Keep one value; see Sample for what the fields mean. ran_on: None for the session's.
        imageless: measured in payload guests, in which no image has a part."""
        session = self._session
        ran_on = ran_on or self._main
        facts = ran_on.host.facts
        without_image = imageless or hypervisor == "native"  # natively: beside the guests
        made = Sample(
            metric=metric,
            value=float(value),
            unit=unit,
            better=better,
            run=session.run,
            suite=suite,
            test=test,
            parameters=dict(parameters or {}),
            hypervisor=hypervisor or ran_on.name,
            backend=facts.backend,
            host=facts.fingerprint,
            image="" if without_image else session.image_digest(ran_on),
            commit=self._commit,
            time=datetime.now(UTC),
            boot=boot,
            batch=batch,
            attempt=session.attempt if test else 1,
        )
        self._writer.add(made)
        if test:
            self._feed.add(made)

    def watch(self) -> None:
        """Keep the utilization of the session's host and guests from now on."""
        for hypervisor in self._session.hypervisors.values():
            hypervisor.watch(partial(self.utilization, hypervisor))

    def utilization(
        self,
        ran_on: Hypervisor,
        time_ns: int,
        values: Mapping[str, float],
        guests: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """One tick of a hypervisor's; see harness.hypervisors.base.OnUtilization. The host is the
        same for all of them: the first one tells of it. What each keeps of ended guests' memory is
        used by nobody.

        A guest's samples go by its label, which other runs' guests have, too; its number is their
        boot. `time_ns` is of the host's clock; a sample's time is that of its arrival here.
        """
        tick = self._ticks[ran_on.name]
        self._ticks[ran_on.name] += 1
        told = dict(values)
        self._retired[ran_on.name] = told.pop("memory.quarantined", 0.0)
        if ran_on is self._session.hypervisor:
            if "memory.used" in told:
                told["memory.used"] -= sum(self._retired.values())
            self._keep("host", told, hypervisor="native", batch=tick)
        for name, load in (guests or {}).items():
            boot, label = parse_guest_name(name, self._session.prefix, ran_on.name, "payload")
            about = {"guest": label}
            self._keep("guest", load, parameters=about, ran_on=ran_on, boot=boot, batch=tick)

    def _keep(self, whose: str, values: Mapping[str, float], **more: Any) -> None:
        for name, value in values.items():
            unit = UNITS.get(name) or UNITS.get(name.partition(".")[0], "")
            try:
                self.sample(f"{whose}.{name}", value, unit, **more)
            except HarnessError as error:
                # A full disk must not end the thread that brings all guests' news.
                self._trouble = self._trouble or f"utilization of the {whose}: {error}"

    def count(self, report: pytest.TestReport) -> None:
        """Take a test's report into the run's outcomes, in pytest's own words."""
        if report.passed and report.when != "call":
            return
        outcome: str = report.outcome
        if hasattr(report, "wasxfail"):
            outcome = "xfailed" if report.skipped else "xpassed"
        elif report.failed and report.when != "call":
            outcome = "error"
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def close(self, exit_status: int) -> Outputs:
        """Write samples, report and pytest-benchmark JSON. Never raises: see Outputs.problems."""
        session, made = self._session, Outputs()
        if self._trouble:
            made.problems.append(self._trouble)
        image = session.image_digest(self._main)
        end: RunFacts = {
            "exit_status": exit_status,
            "outcomes": dict(self.outcomes),
            "stages": {name: round(took, 3) for name, took in session.progress.stages.items()},
            "notes": [*session.notes, *(f"left behind: {leak}" for leak in session.leaks)],
        }
        if image:
            end["image"] = image
        try:
            parquet = self._writer.close(end)
        except HarnessError as error:
            made.problems.append(f"samples: {error}")
            return made
        made.samples = str(parquet)
        if session.settings.remote is not None:
            try:
                session.settings.remote.push()
            except HarnessError as error:
                made.problems.append(f"samples: {error}")
        self._reports(parquet, made)
        if session.gate is not None:
            self._compare(session.gate, parquet, made)
        return made

    def _reports(self, parquet: Path, made: Outputs) -> None:
        """A report that cannot be made must not take the samples with it."""
        settings = self._session.settings
        folder = self._session.run_directory

        def benchmark() -> None:
            from harness.results.exchange.benchmark_json import write

            made.benchmark = str(write(parquet, folder / "benchmark.json"))

        def html() -> None:
            from reports.run import render

            out = settings.report or folder / "report.html"
            out.parent.mkdir(parents=True, exist_ok=True)
            render(parquet, out)
            made.report = str(out)

        def figures() -> None:
            from reports.terminal import lines

            made.figures = list(lines(parquet))

        steps = [("pytest-benchmark JSON", benchmark), ("figures", figures)]
        if not settings.no_report:
            steps.append(("report", html))
        folder.mkdir(parents=True, exist_ok=True)
        for name, step in steps:
            try:
                step()
            except Exception as error:
                made.problems.append(f"{name}: {type(error).__name__}: {error}")

    def _compare(self, gate: Gate, parquet: Path, made: Outputs) -> None:
        """With the baseline; what cannot be compared is told, and fails a session that must not
        get worse."""
        from harness.plugin.gate import lines

        settings = self._session.settings
        try:
            found = gate.compare(parquet)
        except Exception as error:  # as of all that is made of samples: they are safe by now
            told = made.problems if settings.gate == "fail" else made.compared
            cause = error if isinstance(error, HarnessError) else f"{type(error).__name__}: {error}"
            told.append(f"comparison: {cause}")
            return
        made.compared, made.regressed = list(lines(found)), found.counts["regressed"]
        made.has_power = found.has_power
        if settings.no_report:
            return
        try:
            from reports.compare import render

            made.comparison = str(render(found, self._session.run_directory / "compare.html"))
        except Exception as error:
            made.problems.append(f"comparison: {type(error).__name__}: {error}")

    def _facts(self) -> RunFacts:
        session, hypervisor = self._session, self._main
        host, facts = hypervisor.host, hypervisor.host.facts
        return {
            "hypervisor": ", ".join(session.hypervisors) or hypervisor.name,
            "host": host.name,
            "hostname": facts.hostname,
            "why": host.reason,
            "emulated": host.emulated,
            "backend": facts.backend,
            "fingerprint": facts.fingerprint,
            "cpu_model": facts.cpu_model,
            "cpus": facts.cpus,
            "memory": facts.memory,
            "kernel": facts.kernel,
            "microcode": facts.microcode,
            "governor": facts.governor,
            "smt": facts.smt,
            "mitigations": dict(facts.mitigations),
            "commit": self._commit,
            "versions": versions(),
            "command": command(session.config),
            "profile": session.settings.profile,
        }


def command(config: pytest.Config) -> str:
    words = [without_passwords(str(word)) for word in config.invocation_params.args]
    return shlex.join(["pytest", *words])


def versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit(directory: Path) -> str:
    """The checkout's commit, with "-dirty" when tracked files differ; "" outside of one."""
    try:
        head = git(directory, "rev-parse", "HEAD", timeout=20)
        changed = git(directory, "status", "--porcelain", "--untracked-files=no", timeout=20)
    except HarnessError:
        return ""
    return f"{head}-dirty" if changed else head


def as_json(made: Outputs) -> dict[str, Any]:
    """Plain data: what an xdist worker can send."""
    return dict(json.loads(json.dumps(made.__dict__)))
