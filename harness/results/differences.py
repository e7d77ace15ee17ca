"""Differences between two sides of the same figures: hypervisors of a run, or two runs.

Effects are signed by direction: above 0 is worse. Boots, not batches, are what repeats, as in
statistics.py: the interval draws the boots of both sides, each on its own, and the test is Mann and
Whitney's over boots, exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats

from harness.results.schema import decode
from harness.results.statistics import (
    BOOT,
    KEYS,
    UTILIZATION,
    Floats,
    central,
    draw,
    few,
    subtract_control,
)

EFFECT = 0.03  # what is less than that does not count
FALSE_DISCOVERIES = 0.05  # of what is called a difference, how much may be none
_EXACT = 2_500  # pairs of boots


def overheads(frame: pd.DataFrame, baseline: str = "native") -> pd.DataFrame:
    """Figures of guests beside those of the baseline, the host itself as long as nobody says
    otherwise.

    Of every metric that both sides have and that has a better direction, but for utilization; of
    exit.* costs in ns, less their control. Of io.* also those without a baseline. Joined on host,
    metric, unit and the parameters that both sides have. overhead is 1 - guest/host where higher is
    better and guest/host - 1 where lower is: 0.2 is 20 % worse than the host. Its interval draws
    the boots of both sides, each on its own; a side with one boot stays as it is (flagged). p: of
    the boots, two-sided, by Mann and Whitney's exact test; NaN where so few cannot tell. Columns:
    KEYS, guest, host_value, guest_n, host_n, guest_boots, host_boots, overhead, low, high, p,
    flags. A guest's figure with no host's beside it has NaN there and is flagged.
    """
    frame = comparable(frame)
    there = frame.loc[frame["hypervisor"] == baseline, "metric"].unique()
    both = frame["metric"].isin(there) | frame["metric"].str.startswith("io.")
    sides = sides_of(frame[both])
    rows = [
        {**guest.key, **_compare(guest, _baselines(guest, sides, baseline))}
        for guest in sides
        if guest.key["hypervisor"] != baseline
    ]
    return pd.DataFrame(rows, columns=_OVERHEAD_COLUMNS)


def comparable(frame: pd.DataFrame) -> pd.DataFrame:
    """The samples that have a better direction, but for utilization; of exit.* the costs in ns,
    less their control."""
    net = subtract_control(frame)
    figures = frame[~frame["metric"].str.match(rf"exit\.|{UTILIZATION}")]
    both = pd.concat([figures, net.loc[net["kind"] == "ns", [*frame.columns]]])
    return both[both["better"] != "none"]


@dataclass(frozen=True)
class Side:
    """One side of a comparison: its key, its boots' medians, its number of samples."""

    key: dict[str, str]
    medians: Floats
    n: int


def sides_of(
    frame: pd.DataFrame, keys: Sequence[str] = KEYS, unit: Sequence[str] = BOOT
) -> list[Side]:
    """unit: what repeats: boots, or runs. A column n says of how many samples a value is."""
    counted = frame if "n" in frame else frame.assign(n=1)
    groups = counted.groupby([*keys, *unit], dropna=False, observed=True)
    table = groups.agg(median=("value", "median"), size=("n", "sum"))
    return [
        Side(
            dict(zip(keys, map(str, key), strict=True)),
            boots["median"].to_numpy(dtype=np.float64),
            int(boots["size"].sum()),
        )
        for key, boots in table.reset_index().groupby(list(keys), dropna=False, observed=True)
    ]


_OVERHEAD_COLUMNS = [
    *KEYS,
    *("guest", "host_value", "guest_n", "host_n", "guest_boots", "host_boots"),
    *("overhead", "low", "high", "p", "flags"),
]


def _baselines(guest: Side, sides: list[Side], baseline: str) -> list[Side]:
    """The host's figures that fit: the parameters both sides have agree, as many as can be."""
    same = ("host", "metric", "unit", "better")
    mine = decode(guest.key["parameters"])
    fits: list[tuple[int, Side]] = []
    for side in sides:
        if side.key["hypervisor"] == baseline and all(side.key[k] == guest.key[k] for k in same):
            shared = decode(side.key["parameters"]).items()
            common = {k: v for k, v in shared if k in mine}
            if all(mine[k] == v for k, v in common.items()):
                fits.append((len(common), side))
    best = max((count for count, _ in fits), default=0)
    return [side for count, side in fits if count == best]


def _compare(guest: Side, hosts: list[Side]) -> dict[str, Any]:
    row: dict[str, Any] = {
        **{"guest": float(np.median(guest.medians)), "guest_n": guest.n, "host_n": 0},
        **{"guest_boots": guest.medians.size, "host_boots": 0, "host_value": np.nan},
        **{"overhead": np.nan, "low": np.nan, "high": np.nan, "p": np.nan},
        "flags": few(guest.medians.size),
    }
    if len(hosts) != 1:
        row["flags"].append(
            "several figures of the host fit" if hosts else "no figure of the host beside it"
        )
        return row
    host = hosts[0]
    row.update(
        host_n=host.n, host_boots=host.medians.size, host_value=float(np.median(host.medians))
    )
    found = difference(guest.medians, host.medians, guest.key["better"])
    row.update(overhead=found.effect, low=found.low, high=found.high, p=found.p)
    if math.isnan(found.effect):
        row["flags"].append("the host's figure is 0")
    elif guest.medians.size >= 2 > host.medians.size:
        row["flags"].append("host measured once: its spread is not in the interval")
    return row


@dataclass(frozen=True)
class Difference:
    """effect: 0.2 is 20 % worse; NaN where the base is not above 0. low, high: its interval; NaN
    with one boot. p: two-sided, of the boots, by Mann and Whitney's exact test; NaN where so few
    cannot tell."""

    effect: float
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan


def difference(new: Floats, base: Floats, better: str, *, tested: bool = True) -> Difference:
    """Of the boots' medians of two sides. better: "higher" or "lower". tested: with a p."""
    middle = float(np.median(base))
    if middle <= 0:
        return Difference(math.nan)
    effect = float(overhead(np.median(new) / middle, better))
    if new.size < 2:
        return Difference(effect)
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = np.asarray(overhead(draw(new, 0) / draw(base, 1), better))
    low, high = central(drawn) if np.isfinite(drawn).all() else (math.nan, math.nan)
    p = math.nan
    if tested and _can_tell(new.size, base.size):
        # beyond that the exact one takes minutes, and the other is as good
        exact = new.size * base.size <= _EXACT
        test = scipy.stats.mannwhitneyu(new, base, method="exact" if exact else "asymptotic")
        p = float(test.pvalue)
    return Difference(effect, low, high, p)


def overhead(ratio: Any, better: str) -> Any:
    """Of new / base, by how much new is worse."""
    return 1 - ratio if better == "higher" else ratio - 1


def _can_tell(one: int, other: int) -> bool:
    """Whether so many boots a side can show a difference at all: of 3 and 3 the least p is 0.1."""
    return least_p(one, other) <= FALSE_DISCOVERIES


def least_p(one: int, other: int) -> float:
    """Of two sides that do not overlap: no test of so many boots can give less."""
    return 2 / math.comb(one + other, one)


def verdicts(
    overhead: Sequence[float],
    p: Sequence[float],
    floor: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
) -> list[str]:
    """What is to be made of several overheads together: "worse", "better", "no difference" or
    "inconclusive".

    A difference is one that Benjamini and Hochberg's procedure keeps at FALSE_DISCOVERIES, and that
    is greater than EFFECT and than `floor`: what the same hypervisor differs from itself, if it was
    measured twice (NaN or 0 if not). There is none where the whole interval lies within EFFECT. All
    else is inconclusive, and so is what could not be tested (p is NaN).
    Of few boots the least p is not small (6 and 6: 2/924): one difference alone among many figures
    cannot be shown by them.
    """
    effects, found = np.asarray(overhead, dtype=float), np.asarray(p, dtype=float)
    floors = np.nan_to_num(np.asarray(floor, dtype=float))
    tested = ~np.isnan(found)
    shown = np.zeros(found.size, dtype=bool)
    if tested.any():
        adjusted = scipy.stats.false_discovery_control(found[tested])
        shown[tested] = adjusted <= FALSE_DISCOVERIES
    shown &= np.abs(effects) > np.maximum(EFFECT, floors)
    within = tested & (np.asarray(low) >= -EFFECT) & (np.asarray(high) <= EFFECT)
    differ = np.where(effects > 0, "worse", "better")
    words = np.where(shown, differ, np.where(within, "no difference", "inconclusive"))
    return [str(word) for word in words]
