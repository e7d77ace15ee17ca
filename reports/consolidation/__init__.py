"""The page that says how many servers share one host: for those who buy and fill hosts."""

from __future__ import annotations

import math
from pathlib import Path

from reports.consolidation import charts, neighbours, tables, timeline
from reports.consolidation.searches import PREFIX, Search, own_samples, searches
from reports.page import EMULATED, KeyFigure, Run, Section
from reports.render import Page, html, raw, write
from reports.series import commit
from reports.session_sections import format_time

METHOD = (
    ("Server", "A guest of a tile: a web server, a cache, a database, batch jobs or idle. "
     "Its load is fixed, so that a server alone uses a small part of its CPU."),
    ("Tile", "The guests that are added together. Its name and version identify their rates."),
    ("Limit", "The slowest latency that counts as good, for each guest by itself: three times "
     "that of a tile alone, or a floor. One guest beyond its limit fails the whole number."),
    ("Knee", "The largest number of tiles with every guest within its limit. Its range goes from "
     "the lowest to the highest number about which measurements disagreed."),
    ("Latency", "From the scheduled arrival of a request to its answer, also when the generator or "
     "the server was late. Requests without a good answer count as infinitely slow."),
    ("Score", "For each tile the geometric mean of its guests' shares of answered requests, added "
     "over tiles. It is no score of any other benchmark."),
    ("Scalability", "The Universal Scalability Law describes the score of n tiles by n / (1 + "
     "contention (n - 1) + coherency n (n - 1)): contention for what the tiles share, coherency "
     "for what each pair of them costs."),
    ("Pressure", "PSI, some: the share of the time in which at least one task of the host waits "
     "for a CPU."),
    ("Memory", "Private pages belong to one guest alone. Shared pages are mapped by several "
     "processes, such as those of a clone's template. Merged pages are equal pages that KSM keeps "
     "once."),
    ("Power", "Of the CPU packages by RAPL: without memory, disks, fans and power supplies."),
    ("Median", "Several points of one number of tiles have one median, without invalid points. A "
     "latency without an answer counts as infinite."),
    ("Host", "The load generator has cores of its own, which carry no guest: a tenth of the "
     "host's, at least one. Servers a core are by the cores of the guests, not by their threads."),
    ("CPU", "Of the CPUs that guests may use. Virtual CPUs are the work of the guests with "
     "its exits; devices and VMM are what else their processes and the kernel use for them."),
)  # fmt: skip


def has_consolidation(run: Run) -> bool:
    """Whether the run searched for a knee."""
    return bool((run.frame["metric"] == f"{PREFIX}knee").any())


def render(parquet: Path, out: Path) -> Path | None:
    """Write the page of a run, or nothing when the run has no search. Raises ResultError."""
    run = Run.read(parquet)
    return write(to_html(run, parquet), out) if has_consolidation(run) else None


def to_html(run: Run, source: Path) -> str:
    """The page as text. source: the run file, which the page names."""
    found = list(searches(run))
    sections = [tables.answer(found), *(_search_section(run, search) for search in found)]
    sections += neighbours.sections(run) + tables.idle_sections(run)
    facts = run.facts
    page = Page(
        kind="Consolidation report",
        title=_title(found),
        name=f"consolidation {facts.get('run', '')}",
        sections=sections,
        keys=[_key_figure(search) for search in found],
        method=METHOD,
        raw=raw(f"consolidation {facts.get('run', '')}", own_samples(run)),
        warnings=[EMULATED] if run.emulated else [],
        tag="emulated" if run.emulated else "",
    )
    time = format_time(facts.get("start", ""))
    return html("run.html", page, facts=facts, time=time, source=source.name, commit=commit(facts))


def summary(run: Run) -> list[Section]:
    """The answer alone, for the page of the run; nothing when the run has no search."""
    found = list(searches(run))
    if not found:
        return []
    section = tables.answer(found)
    section.notes.append("The page consolidation.html beside this one has the whole search.")
    return [section]


def _title(searches: list[Search]) -> str:
    """The answer of the best hypervisor that makes machines, or of the only one."""
    machines = [one for one in searches if one.hypervisor != "native"] or searches
    best = max(machines, key=lambda one: one.value("servers_per_host"))
    least = "At least " if best.ended_early else ""
    return (
        f"{least}{best.value('servers_per_host'):g} servers fit on one host with {best.hypervisor}"
    )


def _key_figure(search: Search) -> KeyFigure:
    low, high = search.band
    busy, reason = search.value("knee.utilization"), search.text("knee.at_least", "reason")
    span = f"{low:g} to {high:g} tiles" if low != high else f"every measurement agreed on {low:g}"
    sentence = (
        f"{search.knee:g} tiles of {len(search.guests)} servers ({span})"
        + (f"; at the knee the guests' CPUs are {busy:.0f} % busy" if math.isfinite(busy) else "")
        + (f"; the search ended early: {reason}" if reason else "")
    )
    least = "at least " if search.ended_early else ""
    value = f"{least}{search.value('servers_per_host'):g} servers"
    return KeyFigure(f"On one host, {search.label}", value, sentence)


def _search_section(run: Run, search: Search) -> Section:
    name = search.label.split(" ")[0]
    section = Section(f"search-{name}", f"Search: {search.label}")
    section.figures += charts.figures(search)
    section.tables += [tables.points_table(search), tables.latency_table(search)]
    section.tables.append(tables.memory_table(search))
    if active := timeline.activity(run, search):
        section.figures.append(timeline.timeline_figure(search, active))
        section.tables.append(timeline.events_table(search, active))
    return section
