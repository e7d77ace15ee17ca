"""The search over time: the host's CPU and pressure, the number of guests, and events."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from harness.results.schema import decode_parameters
from reports import lanes, text
from reports.consolidation.searches import PointSpan, Search
from reports.figures import Figure, StackedSeries, figure
from reports.lanes import Event, Lane, Span, Timeline
from reports.page import Cell, Run, Table, columns, count_cell, figure_cell, text_cell
from reports.session_sections import CPU_PARTS, host_ticks, thinned

SYMBOLS = {"pass": "✓", "fail": "✗", "invalid": "?"}
STYLES = {"pass": "good", "fail": "bad", "invalid": "soft"}
MOST_TICKS = 150
_MARGIN = 2.0  # seconds before the first point and after the last one
# Reports of utilization that lack a guest before it counts as ended: one may be late.
_REPORTS_WITHOUT = 2
_PRESSURE = "host.pressure.cpu"


@dataclass(frozen=True)
class Life:
    """When a guest is in the reports of utilization: the first and the last one with it, and the
    first one without it (NaN if there is none)."""

    label: str
    start: float
    last: float
    end: float


@dataclass(frozen=True)
class Activity:
    """What the plugin recorded during a search. Times are in seconds since its first point.

    host: host.* values by tick. moments, counts: number of guests at each report. lives: of the
    guests of tiles.
    """

    spans: Sequence[PointSpan]
    host: pd.DataFrame
    moments: Sequence[float]
    counts: Sequence[int]
    lives: Sequence[Life]

    @property
    def end(self) -> float:
        return max(span.end for span in self.spans) + _MARGIN

    def deployed(self, span: PointSpan) -> list[Life]:
        """The guests that appear in a point."""
        return [one for one in self.lives if span.start - 1 <= one.start <= span.end]

    def ended(self, span: PointSpan) -> list[Life]:
        """The guests that end in a point. Those that the suite ends do so before a point starts."""
        return [one for one in self.lives if span.start + 1 < one.last and one.end <= span.end]


def activity(run: Run, search: Search) -> Activity | None:
    """None for a run of an older version, whose points have no times."""
    timed = [span for span in search.spans if math.isfinite(span.start + span.end)]
    if not timed:
        return None
    zero = min(span.start for span in timed)
    spans = [replace(one, start=one.start - zero, end=one.end - zero) for one in timed]
    begin = pd.Timestamp(zero, unit="s", tz="UTC")
    after = pd.Timedelta(seconds=max(span.end for span in spans) + _MARGIN)
    during = run.frame["time"].between(begin - pd.Timedelta(seconds=_MARGIN), begin + after)
    frame = run.frame[during]
    moments, counts, lives = _guests(frame, search, begin)
    return Activity(spans, _host(frame, begin), moments, counts, lives)


def _host(frame: pd.DataFrame, begin: pd.Timestamp) -> pd.DataFrame:
    """The ticks of the host by their second."""
    if not frame["metric"].str.startswith("host.").any():
        return pd.DataFrame()
    ticks = host_ticks(frame)
    ticks.index = pd.Index((pd.DatetimeIndex(ticks.index) - begin).total_seconds())
    return ticks[ticks.index >= 0]


def _guests(
    frame: pd.DataFrame, search: Search, begin: pd.Timestamp
) -> tuple[list[float], list[int], list[Life]]:
    """Times of reports, number of the tiles' guests in each, and the life of each guest."""
    chosen = (frame["metric"] == "guest.cpu.user") & (frame["hypervisor"] == search.hypervisor)
    samples = frame[chosen]
    if samples.empty:
        return [], [], []
    labels = {
        one: str(decode_parameters(str(one)).get("guest", ""))
        for one in samples["parameters"].unique()
    }
    names = "|".join(map(re.escape, search.guests))
    samples = samples.assign(
        label=samples["parameters"].astype(str).map(labels),
        second=(samples["time"] - begin).dt.total_seconds(),
    )
    seconds = samples.groupby("batch")["second"].min()
    own = samples[samples["label"].str.fullmatch(rf"(?:{names})-\d+")]
    counts = own.groupby("batch").size().reindex(seconds.index, fill_value=0)
    reports = [float(one) for one in seconds]
    place = {batch: number for number, batch in enumerate(seconds.index)}
    lives = []
    for (label, _), group in own.groupby(["label", "boot"]):
        after = place[group["batch"].max()] + 1
        ended = after + _REPORTS_WITHOUT <= len(reports)
        first, last = float(group["second"].min()), float(group["second"].max())
        lives.append(Life(str(label), first, last, reports[after] if ended else math.nan))
    return reports, [int(one) for one in counts], lives


def timeline_figure(search: Search, active: Activity) -> Figure:
    spans = [
        Span(
            max(one.start, 0.0),
            one.end,
            f"{one.tiles:g} {SYMBOLS.get(one.outcome, '')}".strip(),
            STYLES.get(one.outcome, "soft"),
            f"{one.tiles:g} tiles, {one.outcome}: {one.start:.0f} to {one.end:.0f} s",
        )
        for one in active.spans
    ]
    title = f"The search over time, {search.label}"
    found = [f"{one.tiles:g} {one.outcome} from {one.start:.0f} s" for one in active.spans]
    description = "Numbers of tiles in their order: " + ", ".join(found) + "."
    drawn = Timeline(
        end=active.end,
        spans=spans,
        spans_title="Points: tiles, ✓ pass, ✗ fail, ? invalid",
        areas=_cpu(active.host),
        areas_title="CPU of the host, % of all its CPUs",
        lanes=[*_pressure_lane(active.host), *_guests_lane(active)],
    )
    caption = (
        f"{search.label}: the search over time. A triangle that points up: guests deployed. One "
        "that points down: a guest that ended in a point."
    )
    return figure(caption, lanes.draw(title, description, drawn))


def _cpu(ticks: pd.DataFrame) -> StackedSeries | None:
    parts = {name: f"host.cpu.{name}" for name in CPU_PARTS if f"host.cpu.{name}" in ticks}
    thin = thinned(ticks, list(parts.values()), MOST_TICKS) if parts else ticks
    if not parts or len(thin) < 2:
        return None
    series = {name: [float(one) for one in thin[column]] for name, column in parts.items()}
    return StackedSeries([float(one) for one in thin.index], series, 100.0, "%")


def _pressure_lane(ticks: pd.DataFrame) -> list[Lane]:
    thin = thinned(ticks, [_PRESSURE], MOST_TICKS) if _PRESSURE in ticks else ticks.iloc[:0]
    if len(thin) < 2:
        return []
    seconds, values = ([float(one) for one in part] for part in (thin.index, thin[_PRESSURE]))
    title = "PSI: % of the time a task waits for a CPU"
    return [Lane(title, seconds, values, "s5", high=100.0)]


def _guests_lane(active: Activity) -> list[Lane]:
    if len(active.moments) < 2:
        return []

    def count_at(second: float) -> int:
        known = [n for at, n in zip(active.moments, active.counts, strict=True) if at <= second]
        return known[-1] if known else 0

    events = []
    for span in active.spans:
        if deployed := active.deployed(span):
            at = max(one.start for one in deployed)
            label = f"+{len(deployed)}"
            events.append(Event(at, count_at(at), label, "s3 part", up=True))
        for one in active.ended(span):
            label = f"{one.label} ended"
            events.append(Event(one.end, count_at(one.end), label, "v-regressed part", up=False))
    events.sort(key=lambda event: event.at)
    # A step needs its corners alone.
    corners = [
        number
        for number, count in enumerate(active.counts)
        if number in (0, len(active.counts) - 1) or count != active.counts[number - 1]
    ]
    seconds = [max(active.moments[one], 0.0) for one in corners]
    counts = [float(active.counts[one]) for one in corners]
    return [Lane("Servers that run", seconds, counts, "s1", steps=True, events=events)]


def events_table(search: Search, active: Activity) -> Table:
    """The events of the timeline, a row for each point."""
    rows = []
    for span in active.spans:
        ended = [f"{one.label} at {one.end:.0f} s" for one in active.ended(span)]
        count = len(active.deployed(span)) if active.lives else math.nan
        deployed = count_cell(int(count)) if math.isfinite(count) else figure_cell(count)
        rows.append(
            [
                Cell(f"{span.tiles:g}", span.tiles),
                text_cell(span.outcome),
                Cell(f"{span.start:.0f}", span.start),
                Cell(text.number(span.end - span.start), span.end - span.start),
                deployed,
                Cell(", ".join(ended) or text.NONE, style="prose"),
            ]
        )
    head = columns("#Tiles", "Verdict", "#Start (s)", "#Took (s)", "#Deployed", "Ended")
    return Table(f"Events of the search: {search.label}", head, rows)
