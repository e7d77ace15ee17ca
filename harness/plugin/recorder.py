"""Collects the run's samples, and fills in what a test does not say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from harness.errors import HarnessError
from harness.guest.factory import parse_guest_name
from harness.hypervisors.base import Hypervisor
from harness.plugin.benchmark_bridge import BenchmarkFeed
from harness.plugin.context import RunContext
from harness.plugin.host_manager import NATIVE, HostManager
from harness.plugin.payload_host import PayloadHost
from harness.plugin.provisioner import Provisioner
from harness.plugin.run_facts import checkout_commit, run_facts
from harness.results.schema import Better, Parameter, RunFacts, Sample
from harness.results.spool import RunWriter, recover

MAX_FAILURES, MAX_ID = 50, 200  # failed tests that a run names, and characters of each name
# of utilization metrics, by name or by the name's first part
UNITS = {
    **{"cpu": "%", "memory": "MiB", "pressure": "%", "power": "W"},
    **{"disk": "MiB/s", "disk.requests": "1/s"},
}


class Recorder:
    """One run's samples. Safe to use from threads.

    Args:
        provisioner: knows the images that guests boot.
        note: prints a line, now and in the summary.

    Attributes:
        outcomes: number of tests by outcome, in pytest's words.
        failures: node id -> "failed" or "error", of the first MAX_FAILURES.
        attempts: node id -> number of its present attempt, for each test that ran more than once.
        problem: the first error of recording utilization; "" for none.

    Raises ResultError when the store is not writable.
    """

    def __init__(
        self,
        context: RunContext,
        hosts: HostManager,
        payloads: PayloadHost,
        provisioner: Provisioner,
        note: Callable[[str], None],
    ) -> None:
        self._context = context
        self._hosts = hosts
        self._payloads = payloads
        self._provisioner = provisioner
        self._commit = checkout_commit(context.config.rootpath)
        self._ticks: Counter[str] = Counter()  # by hypervisor
        self._quarantined: dict[str, float] = {}  # MiB, by hypervisor
        # the one to describe when a session ends while its host is being replaced
        self._last_main: Hypervisor | None = None
        self.problem = ""
        self.outcomes: dict[str, int] = {}
        self.failures: dict[str, str] = {}
        self.attempts: dict[str, int] = {}
        problems: list[str] = []
        for path in recover(context.settings.results, problems):
            context.progress(f"samples of an interrupted run are now in {path}")
        for problem in problems:
            note(problem)
        facts = run_facts(context, self._main, hosts.hypervisors, self._commit)
        self._writer = RunWriter(context.settings.results, facts, run=context.run)
        self._feed = BenchmarkFeed(context.config)

    @property
    def _main(self) -> Hypervisor:
        """The hypervisor that the run's facts describe: that of guests, else of payload guests."""
        hypervisor = self._hosts.hypervisor or self._payloads.hypervisor or self._last_main
        assert hypervisor is not None  # noqa: S101 - a recorder is made after a hypervisor
        self._last_main = hypervisor
        return hypervisor

    @property
    def images(self) -> str:
        """The digests of the images that the run's guests booted; "" for none."""
        return ", ".join(self._provisioner.booted_images)

    def sample(
        self,
        metric: str,
        value: float,
        unit: str,
        better: Better,
        parameters: Mapping[str, Parameter] | None = None,
        *,
        ran_on: Hypervisor | None = None,
        image: str | None = None,
        hypervisor: str | None = None,
        suite: str = "",
        test: str = "",
        item: str = "",
        attempt: int = 1,
        boot: int = 0,
        batch: int = 0,
    ) -> None:
        """Record one value; see Sample for the fields.

        ran_on: None for the session's first hypervisor. image: digest of what the test's guests
        boot, "" for none; None for the image of `ran_on`. hypervisor: overrides the name of
        `ran_on`.
        """
        context = self._context
        ran_on = ran_on or self._main
        facts = ran_on.host.facts
        if image is None:
            image = self._provisioner.image_digest(ran_on)
        sample = Sample(
            metric=metric,
            value=float(value),
            unit=unit,
            better=better,
            run=context.run,
            suite=suite,
            test=test,
            parameters=dict(parameters or {}),
            hypervisor=hypervisor or ran_on.name,
            backend=facts.backend,
            host=facts.fingerprint,
            # A native value is measured on the host itself, beside the guests.
            image="" if hypervisor == NATIVE else image,
            commit=self._commit,
            time=datetime.now(UTC),
            boot=boot,
            batch=batch,
            attempt=attempt,
            item=item,
        )
        self._writer.add(sample)
        if item:
            self._feed.add(sample)

    def supersede_attempts(self, item: str, attempt: int) -> None:
        """A test runs again: its attempts before this one no longer count."""
        self.attempts[item] = attempt
        self._feed.discard(item)
        self._writer.update_facts({"attempts": dict(self.attempts)})

    def watch(self) -> None:
        """Record the utilization of the session's host and guests from now on."""
        for hypervisor in self._hosts.hypervisors.values():
            hypervisor.watch(partial(self.utilization, hypervisor))

    def utilization(
        self,
        ran_on: Hypervisor,
        time_ns: int,
        values: Mapping[str, float],
        guests: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """Record one report of a hypervisor; see harness.hypervisors.base.OnUtilization.

        All hypervisors report the same host, so only the first one's values of it count. The
        samples do not count quarantined memory as used. A guest's samples carry its label, which
        guests of other runs share; the number in its name is their boot. time_ns: of the host's
        clock; a sample has the time at which it arrives here.
        """
        tick = self._ticks[ran_on.name]
        self._ticks[ran_on.name] += 1
        host_values = dict(values)
        self._quarantined[ran_on.name] = host_values.pop("memory.quarantined", 0.0)
        if ran_on is self._hosts.hypervisor:
            if "memory.used" in host_values:
                host_values["memory.used"] -= sum(self._quarantined.values())
            self._record_all("host", host_values, hypervisor=NATIVE, batch=tick)
        for name, load in (guests or {}).items():
            boot, label = parse_guest_name(name, self._context.prefix, ran_on.name, "payload")
            about = {
                "parameters": {"guest": label},
                "image": self._provisioner.image_digest(ran_on, name),
            }
            self._record_all("guest", load, **about, ran_on=ran_on, boot=boot, batch=tick)

    def _record_all(self, whose: str, values: Mapping[str, float], **more: Any) -> None:
        for name, value in values.items():
            unit = UNITS.get(name) or UNITS.get(name.partition(".")[0], "")
            try:
                self.sample(f"{whose}.{name}", value, unit, "none", **more)
            except HarnessError as error:
                # A full disk must not end the thread that reads all guests' events.
                self.problem = self.problem or f"utilization of the {whose}: {error}"

    def count(self, report: pytest.TestReport) -> None:
        """Count a test's report among the run's outcomes."""
        if report.passed and report.when != "call":
            return
        outcome: str = report.outcome
        if hasattr(report, "wasxfail"):
            outcome = "xfailed" if report.skipped else "xpassed"
        elif report.failed and report.when != "call":
            outcome = "error"
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        if outcome in ("failed", "error") and len(self.failures) < MAX_FAILURES:
            name = report.nodeid
            name = name if len(name) <= MAX_ID else f"{name[: MAX_ID - 1]}…"
            self.failures.setdefault(name, outcome)

    def close(self, end: RunFacts) -> Path:
        """Write the samples to the store, with what the end adds to the facts. Raises
        HarnessError."""
        return self._writer.close(end)
