"""One run as one HTML page that needs nothing but itself: no network, no other file."""

from __future__ import annotations

from pathlib import Path

from harness.results.schema import RunFacts
from reports import other_metrics, series, session, side_by_side, suite_sections
from reports.key import key_figures
from reports.page import EMULATED, Run, failures
from reports.render import Page, html, raw, write


def render(parquet: Path, out: Path) -> Path:
    """Write the report of a run's Parquet file (or of a store's newest run) to `out`.

    The page is one file below 1 MiB. Raises ResultError when the run cannot be read or the page
    cannot be written; a page that was there before then stays.
    """
    return write(to_html(Run.read(parquet), parquet), out)


def to_html(run: Run, source: Path) -> str:
    """The page as text. source: named on the page as the place of the raw samples."""
    facts = run.facts
    name = facts.get("run", "")
    page = Page(
        kind="Hypervisor run report",
        title=_title(facts),
        name=f"run {name}",
        sections=[
            side_by_side.section(run),
            session.environment(run),
            suite_sections.boot(run),
            suite_sections.exits(run),
            suite_sections.io(run),
            *other_metrics.sections(run),
            session.utilization(run),
            session.outcomes(run),
            session.stages(run),
        ],
        keys=key_figures(run),
        method=session.METHOD,
        raw=raw(name, run.frame),
        warnings=_warnings(run),
        tag="emulated" if run.emulated else "",
    )
    when = session.when(facts.get("start", ""))
    more = {"facts": facts, "when": when, "source": source.name, "commit": series.commit(facts)}
    return html("run.html", page, **more)


def _title(facts: RunFacts) -> str:
    host = facts.get("host", "an unknown host")
    names = {"emulated": "an emulated host", "local": facts.get("hostname") or "this host"}
    return f"{facts.get('hypervisor', 'unknown')} on {names.get(host, host)}"


def _warnings(run: Run) -> list[str]:
    said = [EMULATED] if run.emulated else []
    if not run.facts.get("complete", True):
        lost = run.facts.get("lost_lines", 0)
        said.append(
            "Incomplete run: its session ended before its time; these are the samples it left"
            + (f", {lost} unreadable" if lost else "")
            + "."
        )
    counts = run.facts.get("outcomes", {})
    if bad := sum(failures(counts).values()):
        said.append(f"{bad} of {sum(counts.values())} tests failed: see Outcomes.")
    if run.frame.empty:
        said.append("This run holds no samples.")
    return said
