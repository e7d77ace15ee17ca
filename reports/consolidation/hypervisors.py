"""The servers per host of each hypervisor, their order, and what the accounting says about it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from reports import text
from reports.bars import Ranged, ranged
from reports.consolidation.searches import Search
from reports.figures import Figure, figure

_MIN_CPUS = 0.01  # smaller differences of the fit explain nothing
_MORE_EXITS = 1.2  # times as many are worth mentioning


@dataclass(frozen=True)
class Cost:
    """A term of the fit: CPUs of the host at a common load, and the term in words."""

    cpus: float
    words: str
    short: str


def servers_figure(searches: Sequence[Search]) -> Figure:
    """A bar for each hypervisor, the best one first."""
    ordered = by_servers(searches)
    rows = []
    for search in ordered:
        low, high = servers_band(search)
        note = f" ({low:g} to {high:g})" if high > low else ""
        note += " or more" if search.ended_early else ""
        rows.append(Ranged(search.label, search.value("servers_per_host"), low, high, note))
    title = "Servers on one host by hypervisor"
    description = "; ".join(f"{row.label}: {row.value:g}{row.note}" for row in rows)
    caption = "Servers on one host within all limits. Lines: the range of the knee."
    return figure(caption, ranged(title, description, rows, "servers"))


def by_servers(searches: Sequence[Search]) -> list[Search]:
    return sorted(searches, key=lambda one: -one.value("servers_per_host"))


def servers_band(search: Search) -> tuple[float, float]:
    """The range of the knee in servers."""
    servers = search.value("servers_per_host")
    each = servers / search.knee if search.knee > 0 else len(search.guests)
    low, high = search.band
    return min(low * each, servers), max(high * each, servers)


def comparison(searches: Sequence[Search]) -> list[str]:
    """A sentence for each hypervisor and the next better one; none for a single hypervisor."""
    ordered = by_servers(searches)
    return [_compared(worse, better) for better, worse in pairwise(ordered)]


def _compared(worse: Search, better: Search) -> str:
    few, many = worse.value("servers_per_host"), better.value("servers_per_host")
    early = next((one for one in (worse, better) if one.ended_early), None)
    if early is worse or (early and few == many):
        return (
            f"The order of {worse.hypervisor} and {better.hypervisor} is open: the search on "
            f"{early.hypervisor} ended early, at {early.value('servers_per_host'):g} servers."
        )
    if few == many:
        return f"{worse.hypervisor} and {better.hypervisor} carry equally many servers ({many:g})."
    numbers = f"{few:g} and {'at least ' if early else ''}{many:g}"
    overlap = servers_band(worse)[1] >= servers_band(better)[0]
    return (
        f"{worse.hypervisor} carries fewer servers than {better.hypervisor} ({numbers})"
        f"{', but their ranges overlap' if overlap else ''}: {_reason(worse, better)}."
    )


def _reason(worse: Search, better: Search) -> str:
    """The term of the fit that costs the worse one most, at the load of its knee."""
    common = [tiles for tiles in worse.tiles if tiles in better.tiles and tiles <= worse.knee]
    tiles = max(common, default=0.0)
    pairs = list(zip(_costs(worse, tiles), _costs(better, tiles), strict=False))
    differences = [a.cpus - b.cpus for a, b in pairs]
    if not pairs or not sum(differences) > _MIN_CPUS:
        return "the accounting of CPU time does not explain it"
    largest = max(range(len(pairs)), key=lambda at: differences[at])
    of_worse, of_better = pairs[largest]
    reason = f"{of_worse.words}, with {better.hypervisor} {of_better.short}"
    return reason + _exits(worse, better)


def _costs(search: Search, tiles: float) -> list[Cost]:
    """The terms of a search's fit at a number of tiles, with its own work there; empty without a
    fit. Work has the exits of virtual CPUs in it, so it differs for equal requests."""
    base, guest, demand = (search.value(f"fit.{name}") for name in ("base", "guest", "demand"))
    work = search.at(tiles, "cpu.demand", load="full") / 100
    guests = tiles * len(search.guests)
    if not math.isfinite(base + guest + demand + work):
        return []
    return [
        Cost(base, f"the host without guests uses {_cpus(base)}", _number(base)),
        Cost(guest * guests, f"an idle guest costs {_cpus(guest)} of the host", _number(guest)),
        Cost(
            demand * work,
            f"the work of {text.count(tiles, 'tile')} takes {_cpus(demand * work)} of the host",
            _number(demand * work),
        ),
    ]


def _number(cpus: float) -> str:
    return text.number(cpus, 2)


def _cpus(cpus: float) -> str:
    return f"{_number(cpus)} {'CPU' if cpus < 1 else 'CPUs'}"


def _exits(worse: Search, better: Search) -> str:
    """The exits of both, where the worse one has clearly more. A container has none."""
    tiles = [one for one in worse.tiles if one in better.tiles and one <= worse.whole_knee]
    if not tiles:
        return ""
    many, few = (one.at(max(tiles), "exits.exits") for one in (worse, better))
    if not many > _MORE_EXITS * few > 0:
        return ""
    return f". A request takes {_number(many)} exits, with {better.hypervisor} {_number(few)}"
