"""The figures of a search."""

from __future__ import annotations

import math
from collections.abc import Iterator

from reports.consolidation.searches import Search
from reports.curves import Chart, Curve, draw
from reports.figures import Bar, Figure, figure, stacked

MOST_CURVES = 3  # guests whose latency is drawn
COLOURS = ("s1", "s2", "s3", "s4", "s5")


def figures(search: Search) -> list[Figure]:
    """All figures, in the order of the page."""
    drawn = []
    for guest in search.guests[:MOST_CURVES]:
        chart = _latency_chart(search, guest)
        if chart:
            caption = (
                f"{guest}, {search.label}: latency of its requests against the number of tiles. "
                f"Shaded: the knee's range. Dashed: the limit of p{search.percentile(guest):g}."
            )
            drawn.append(figure(caption, draw(chart)))
    for chart, caption in (_score_chart(search), *_percentile_charts(search)):
        drawn.append(figure(caption, draw(chart)))
    return [*drawn, _cpu_figure(search)]


def _tile_marks(search: Search) -> list[tuple[float, str]]:
    return [(tiles, f"{tiles:g}") for tiles in search.tiles]


def _latency_chart(search: Search, guest: str) -> Chart | None:
    curves = []
    for percentile, style in ((50, "s1"), (99, "s2")):
        points = search.points("latency", guest=guest, percentile=percentile)
        if points:
            curves.append(Curve(f"p{percentile}", points, style))
    worst = search.points("latency.worst_guest", guest=guest)
    if worst:
        name = f"p{search.percentile(guest):g} of the slowest guest"
        curves.append(Curve(name, worst, "s4"))
    if not curves:
        return None
    limit = search.limit(guest)
    if math.isfinite(limit):
        ends = [tiles for curve in curves for tiles, _ in curve.points]
        curves.append(Curve("limit", [(min(ends), limit), (max(ends), limit)], "s5", dashed=True))
    return Chart(
        title=f"Latency of {guest} against tiles, {search.label}",
        description="Median and 99th percentile of the latency at each number of tiles.",
        curves=curves,
        unit="ms",
        x_label="tiles",
        x_marks=_tile_marks(search),
        band=search.band,
        logarithmic=True,
    )


def _score_chart(search: Search) -> tuple[Chart, str]:
    points = search.points("score")
    ideal = [(tiles, tiles) for tiles, _ in points]
    curves = [Curve("score", points, "s1"), Curve("ideal", ideal, "s3", dashed=True)]
    title = f"Score against tiles, {search.label}"
    description = "The score at each number of tiles, and the ideal: one for each tile."
    chart = Chart(title, description, curves, "", "tiles", _tile_marks(search), band=search.band)
    return (
        chart,
        f"{search.label}: score against the number of tiles. Dashed: every request answered.",
    )


def _percentile_charts(search: Search) -> Iterator[tuple[Chart, str]]:
    """Of each guest alone, at the knee, and at the next measured number."""
    tiles = search.tiles
    beyond = [one for one in tiles if one > search.knee]
    places = [("alone", min(tiles)), ("at the knee", math.floor(search.knee))]
    places += [("beyond it", min(beyond))] if beyond else []
    for guest in search.guests[:MOST_CURVES]:
        own = search.frame[(search.frame["metric"] == "latency") & (search.frame["guest"] == guest)]
        curves = []
        for (name, number), style in zip(dict.fromkeys(places), COLOURS, strict=False):
            at = own[own["tiles"] == number].groupby("percentile")["value"].median()
            points = [
                (_tail(p), v)
                for p, v in zip(map(float, map(str, at.index)), at, strict=True)
                if p < 100
            ]
            if points:
                curves.append(
                    Curve(
                        f"{name} ({number:g} {'tile' if number == 1 else 'tiles'})", points, style
                    )
                )
        if curves:
            marks = [(_tail(p), f"p{p:g}") for p in (1, 50, 90, 99, 99.9)]
            title = f"Percentiles of {guest}, {search.label}"
            description = "Latency at each percentile, with more room for the slow requests."
            chart = Chart(title, description, curves, "ms", "percentile", marks, logarithmic=True)
            yield chart, f"{guest}, {search.label}: latency by percentile."


def _tail(percentile: float) -> float:
    """A scale on which each nine takes equal room."""
    return -math.log10(1 - percentile / 100)


def _cpu_figure(search: Search) -> Figure:
    bars = []
    for tiles in search.tiles:

        def share(metric: str, at: float = tiles) -> float:
            return float(search.by_tiles(f"cpu.{metric}", load="full").get(at, 0.0))

        work, guests, busy = share("demand"), share("guests"), share("busy")
        parts = {
            "work in guests": min(work, guests),
            "overhead of guests": max(guests - work, 0.0),
            "the host itself": max(busy - guests, 0.0),
        }
        bars.append(Bar(f"{tiles:g}", parts))
    title = f"CPU time at each number of tiles, {search.label}"
    caption = f"{search.label}: busy CPU time of the guests' CPUs, in % of one CPU."
    return figure(caption, stacked(title, "CPU time by its use.", bars, "%"))
