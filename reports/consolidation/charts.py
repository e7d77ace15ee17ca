"""The figures of a search."""

from __future__ import annotations

import math
from collections.abc import Iterator

from reports import text
from reports.bars import Panel, panels, spaced
from reports.consolidation.searches import Search
from reports.curves import NO_ANSWER, Chart, Curve, draw
from reports.figures import Bar, Figure, figure, stacked

CPU = ("demand", "guests", "busy")  # of work, of processes, of all
MOST_CURVES = 3  # guests whose latency is drawn
MOST_BARS = 16  # numbers of tiles in a figure of bars, and in a table
COLOURS = ("s1", "s2", "s3", "s4", "s5")
# metric of the memory of a guest -> what it is
MEMORY = {
    "memory.private": "private",
    "memory.shared": "shared with other processes",
    "memory.merged": "merged by KSM",
}


def figures(search: Search) -> list[Figure]:
    """All figures but the timeline, in the order of the page."""
    charts = [_latency_chart(search, guest) for guest in search.guests[:MOST_CURVES]]
    charts += [_score_chart(search), *_percentile_charts(search)]
    drawn = [figure(caption, draw(chart)) for chart, caption in charts if chart.curves]
    return [*drawn, _cpu_figure(search), *_memory_figure(search)]


def _latency_chart(search: Search, guest: str) -> tuple[Chart, str]:
    curves = []
    for percentile, style in ((50, "s1"), (99, "s2")):
        points = search.points("latency", guest=guest, percentile=percentile)
        if points:
            curves.append(Curve(f"p{percentile}", points, style))
    worst = search.points("latency.worst_guest", guest=guest)
    quantile = text.percentile(search.percentile(guest))
    if worst:
        curves.append(Curve(f"{quantile} of the slowest guest", worst, "s4"))
    said = "; ".join(_range(curve) for curve in curves)
    limit = search.limit(guest)
    if curves and math.isfinite(limit):
        ends = [tiles for curve in curves for tiles, _ in curve.points]
        curves.append(Curve("limit", [(min(ends), limit), (max(ends), limit)], "s5", dashed=True))
    chart = Chart(
        title=f"Latency of {guest} against tiles, {search.label}",
        description=f"{said}. The limit is {text.time(limit, 'ms')}.",
        curves=curves,
        unit="ms",
        x_label="tiles",
        x_marks=_tile_marks(search),
        band=search.band,
        logarithmic=True,
    )
    caption = (
        f"{guest}, {search.label}: latency of its requests against the number of tiles. "
        f"Shaded: the knee's range. Dashed: the limit ({quantile})."
    )
    return chart, caption + _mark_of(chart)


def _tile_marks(search: Search) -> list[tuple[float, str]]:
    return [(tiles, f"{tiles:g}") for tiles in search.tiles]


def _range(curve: Curve) -> str:
    """A curve in words: its ends, and where requests had no answer."""
    (first, low), (last, high) = curve.points[0], curve.points[-1]
    words = f"{curve.name} {_latency(low)} at {text.count(first, 'tile')}"
    words += f", {_latency(high)} at {text.count(last, 'tile')}" if last > first else ""
    unanswered = [f"{x:g}" for x, y in curve.points if math.isinf(y) and x not in (first, last)]
    return words + (f", {NO_ANSWER} at {', '.join(unanswered)}" if unanswered else "")


def _latency(value: float) -> str:
    return NO_ANSWER if math.isinf(value) else text.time(value, "ms")


def _mark_of(chart: Chart) -> str:
    return " A triangle at the upper edge: requests without an answer." * chart.has_unanswered


def _score_chart(search: Search) -> tuple[Chart, str]:
    points = search.points("score")
    ideal = [(tiles, tiles) for tiles, _ in points]
    curves = [Curve("score", points, "s1"), Curve("ideal", ideal, "s3", dashed=True)]
    title = f"Score against tiles, {search.label}"
    most, score = points[-1]
    description = (
        f"The score is {text.number(score)} at {text.count(most, 'tile')}. The ideal is one for "
        "each tile."
    )
    chart = Chart(title, description, curves, "", "tiles", _tile_marks(search), band=search.band)
    caption = f"{search.label}: score against the number of tiles. Dashed: every request answered."
    return chart, caption + _scalability(search)


def _scalability(search: Search) -> str:
    contention, coherency = (
        search.value(f"scalability.{name}") for name in ("contention", "coherency")
    )
    if not math.isfinite(contention + coherency):
        return ""
    return (
        " The Universal Scalability Law describes these points with a contention of "
        f"{text.quantity(contention, '%')} and a coherency of {text.quantity(coherency, '%')}; it "
        "says nothing beyond them."
    )


def _percentile_charts(search: Search) -> Iterator[tuple[Chart, str]]:
    """Of each guest alone, at the knee, and at the next measured number."""
    measured = search.tiles
    beyond = [one for one in measured if one > search.knee]
    whole = [one for one in beyond if one == search.whole_knee + 1]
    places = {search.whole_knee: "at the knee", min(measured): "alone"}
    if beyond:
        places[min(whole or beyond)] = "beyond it"
    for guest in search.guests[:MOST_CURVES]:
        own = search.valid[(search.valid["metric"] == "latency") & (search.valid["guest"] == guest)]
        curves = []
        for number, style in zip(sorted(places), COLOURS, strict=False):
            at = own[own["tiles"] == number].groupby("percentile")["value"].median()
            values = {float(str(percentile)): float(value) for percentile, value in at.items()}
            points = [(_tail(p), value) for p, value in values.items() if p < 100]
            if points:
                name = f"{places[number]} ({text.count(number, 'tile')})"
                curves.append(Curve(name, points, style))
        marks = [(_tail(p), f"p{p:g}") for p in (1, 50, 90, 99, 99.9)]
        chart = Chart(
            title=f"Percentiles of {guest}, {search.label}",
            description="; ".join(
                f"{one.name}: {_latency(one.points[0][1])} to {_latency(one.points[-1][1])}"
                for one in curves
            ),
            curves=curves,
            unit="ms",
            x_label="percentile",
            x_marks=marks,
            logarithmic=True,
        )
        yield chart, f"{guest}, {search.label}: latency by percentile.{_mark_of(chart)}"


def _tail(percentile: float) -> float:
    """A scale on which each nine takes equal room."""
    return -math.log10(1 - percentile / 100)


def shown_tiles(search: Search) -> tuple[list[float], str]:
    """The numbers of tiles in bars and tables, and a remark if some are left out."""
    knee = search.whole_knee
    shown = spaced(search.tiles, MOST_BARS, (knee, knee + 1))
    count = len(search.tiles)
    return shown, "" if len(shown) == count else f" {len(shown)} of {count} numbers are shown."


def _cpu_figure(search: Search) -> Figure:
    shown, remark = shown_tiles(search)
    bars = []
    for tiles in shown:
        work, guests, busy = (
            max(0.0, search.at(tiles, f"cpu.{name}", load="full")) for name in CPU
        )
        parts = {
            "virtual CPUs": min(work, guests),
            "devices and VMM": max(guests - work, 0.0),
            "the host itself": max(busy - guests, 0.0),
        }
        bars.append(Bar(f"{tiles:g}", parts))
    title = f"CPU time at each number of tiles, {search.label}"
    caption = f"{search.label}: busy CPU time of the guests' CPUs by its use, in % of one CPU."
    said = [
        f"{bar.label} tiles: "
        + ", ".join(f"{name} {text.quantity(value, '%')}" for name, value in bar.parts.items())
        for bar in (bars[0], bars[-1])
    ]
    styles = dict(zip(bars[0].parts, COLOURS, strict=False))
    drawn = [Panel("CPU, % of one CPU", bars, "%", styles, share=2)]
    pressure = dict(search.points("pressure.cpu", load="full"))
    if pressure:
        name = "time in which a task waits for a CPU (PSI)"
        waits = [
            Bar(f"{tiles:g}", {name: pressure[tiles]} if tiles in pressure else {})
            for tiles in shown
        ]
        drawn.append(Panel("Pressure, % of the time", waits, "%", {name: "s5"}, high=100))
        caption += " Beside it: the time in which a task of the host waits for a CPU (PSI, some)."
        most = max(pressure)
        said.append(f"pressure {text.quantity(pressure[most], '%')} at {text.count(most, 'tile')}")
    return figure(caption + remark, panels(title, "; ".join(said), drawn))


def _memory_figure(search: Search) -> list[Figure]:
    """The mean over guests of a tile; nothing where the host does not say."""
    shown, remark = shown_tiles(search)
    known = {
        metric: search.valid[(search.valid["metric"] == metric) & (search.valid["load"] == "full")]
        for metric in MEMORY
    }
    bars = []
    for tiles in shown:
        parts = {}
        for metric, name in MEMORY.items():
            at = known[metric][known[metric]["tiles"] == tiles]
            if len(at):
                parts[name] = float(at.groupby("guest")["value"].median().mean())
        if parts:
            bars.append(Bar(f"{tiles:g}", parts))
    if not bars:
        return []
    title = f"Memory of a guest at each number of tiles, {search.label}"
    description = "; ".join(
        f"{bar.label} tiles: "
        + ", ".join(f"{name} {text.quantity(value, 'MiB')}" for name, value in bar.parts.items())
        for bar in (bars[0], bars[-1])
    )
    caption = (
        f"{search.label}: host memory of one guest under load, mean over the guests of a tile, by "
        f"number of tiles.{remark}"
    )
    return [figure(caption, stacked(title, description, bars, "MiB"))]
