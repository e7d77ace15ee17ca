"""The page of one run: a single file that loads nothing."""

from __future__ import annotations

from pathlib import Path

from harness.results.schema import RunFacts
from reports import (
    consolidation,
    other_metrics,
    series,
    session_sections,
    side_by_side,
    suite_sections,
)
from reports.key_figures import key_figures
from reports.page import EMULATED, Run, count_tests, failed_outcomes
from reports.render import Page, html, raw, write

INTERRUPTED = 2  # pytest.ExitCode.INTERRUPTED; a report needs no pytest


def render(parquet: Path, out: Path) -> Path:
    """Write the report of a run file (or of the newest run of a store), one file below 1 MiB.

    Raises ResultError when the run cannot be read or the page cannot be written; an existing page
    then stays as it is.
    """
    return write(to_html(Run.read(parquet), parquet), out)


def to_html(run: Run, source: Path) -> str:
    """The page as text. source: the run file, which the page names."""
    facts = run.facts
    name = facts.get("run", "")
    page = Page(
        kind="Hypervisor run report",
        title=_title(facts),
        name=f"run {name}",
        sections=[
            side_by_side.hypervisors_section(run),
            session_sections.environment(run),
            *consolidation.summary(run),
            *suite_sections.sections(run),
            *other_metrics.sections(run),
            session_sections.utilization(run),
            session_sections.outcomes(run),
            session_sections.stages(run),
        ],
        keys=key_figures(run),
        method=session_sections.METHOD,
        raw=raw(name, run.frame),
        warnings=_warnings(run),
        tag="emulated" if run.emulated else "",
    )
    time = session_sections.format_time(facts.get("start", ""))
    more = {"facts": facts, "time": time, "source": source.name, "commit": series.commit(facts)}
    return html("run.html", page, **more)


def _title(facts: RunFacts) -> str:
    host = facts.get("host", "an unknown host")
    names = {"emulated": "an emulated host", "local": facts.get("hostname") or "this host"}
    return f"{facts.get('hypervisor', 'unknown')} on {names.get(host, host)}"


def _warnings(run: Run) -> list[str]:
    warnings = [EMULATED] if run.emulated else []
    if not run.facts.get("complete", True):
        lost = run.facts.get("lost_lines", 0)
        warnings.append(
            "Incomplete run: its session did not end normally. The page shows the samples up to "
            "then" + (f"; {lost} could not be read" if lost else "") + "."
        )
    if run.facts.get("exit_status") == INTERRUPTED:
        warnings.append("Interrupted run: its session was ended before its last test.")
    counts = run.facts.get("outcomes", {})
    if failed := sum(failed_outcomes(counts).values()):
        warnings.append(f"{failed} of {count_tests(counts)} tests failed: see Outcomes.")
    if run.frame.empty:
        warnings.append("This run has no samples.")
    return warnings
