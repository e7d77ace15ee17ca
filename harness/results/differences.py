"""Differences between two sides with the same figures: hypervisors of a run, or two runs.

An effect is signed by the better direction: above 0 is worse. The unit of replication is the boot,
as in statistics.py. The interval resamples the boots of both sides independently. The test is Mann
and Whitney's exact test over boots.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats

from harness.results.schema import decode_parameters
from harness.results.statistics import (
    BOOT,
    KEYS,
    TEST,
    UTILIZATION,
    Floats,
    bootstrap_medians,
    central_interval,
    sample_size_flags,
    subtract_control,
)

MIN_EFFECT = 0.03  # smaller differences do not count
FALSE_DISCOVERY_RATE = 0.05  # expected share of false differences among those that are shown
_MAX_EXACT_PAIRS = 2_500  # pairs of boots


def overheads(frame: pd.DataFrame, baseline: str = "native") -> pd.DataFrame:
    """Figures of guests with those of a baseline hypervisor (default: the host itself).

    Includes each metric with a better direction that both sides have, without utilization. exit.*
    contributes costs in ns, with the control subtracted. io.* is included without a baseline too.
    Rows are joined on host, suite, test, metric, unit and the parameters that both sides have.

    Columns: KEYS, guest, host_value, guest_n, host_n, guest_boots, host_boots, overhead, low, high,
    p, flags. overhead: 1 - guest/host where higher is better, guest/host - 1 where lower is better
    (0.2: 20 % worse); NaN and flagged without a baseline. low, high: its interval, which resamples
    the boots of both sides; a side with one boot is constant (flagged). p: two-sided, by Mann and
    Whitney's exact test; NaN with too few boots.
    """
    frame = comparable_samples(frame)
    on_baseline = frame.loc[frame["hypervisor"] == baseline, "metric"].unique()
    included = frame["metric"].isin(on_baseline) | frame["metric"].str.startswith("io.")
    sides = sides_of(frame[included])
    rows = [
        {**guest.key, **_overhead_row(guest, _matching_baselines(guest, sides, baseline))}
        for guest in sides
        if guest.key["hypervisor"] != baseline
    ]
    return pd.DataFrame(rows, columns=_OVERHEAD_COLUMNS)


def comparable_samples(frame: pd.DataFrame) -> pd.DataFrame:
    """The samples with a better direction, without utilization; of exit.* the costs in ns with the
    control subtracted."""
    net = subtract_control(frame)
    figures = frame[~frame["metric"].str.match(rf"exit\.|{UTILIZATION}")]
    samples = pd.concat([figures, net.loc[net["kind"] == "ns", [*frame.columns]]])
    return samples[samples["better"] != "none"]


@dataclass(frozen=True)
class Side:
    """One side of a comparison: its key, the medians of its boots, its number of samples."""

    key: dict[str, str]
    medians: Floats
    n: int


def sides_of(
    frame: pd.DataFrame, keys: Sequence[str] = KEYS, unit: Sequence[str] = BOOT
) -> list[Side]:
    """Group samples by `keys`, with one median for each unit of replication.

    unit: columns that identify a boot, or a run. A column n, if present, is the number of samples
    behind each value.
    """
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


def _matching_baselines(guest: Side, sides: list[Side], baseline: str) -> list[Side]:
    """The baseline's figures of the same test that match: shared parameters are equal, and as many
    as possible are shared."""
    same = ("host", *TEST, "metric", "unit", "better")
    parameters = decode_parameters(guest.key["parameters"])
    matches: list[tuple[int, Side]] = []
    for side in sides:
        if side.key["hypervisor"] == baseline and all(side.key[k] == guest.key[k] for k in same):
            others = decode_parameters(side.key["parameters"]).items()
            shared = {k: v for k, v in others if k in parameters}
            if all(parameters[k] == v for k, v in shared.items()):
                matches.append((len(shared), side))
    best = max((count for count, _ in matches), default=0)
    return [side for count, side in matches if count == best]


def _overhead_row(guest: Side, hosts: list[Side]) -> dict[str, Any]:
    row: dict[str, Any] = {
        **{"guest": float(np.median(guest.medians)), "guest_n": guest.n, "host_n": 0},
        **{"guest_boots": guest.medians.size, "host_boots": 0, "host_value": np.nan},
        **{"overhead": np.nan, "low": np.nan, "high": np.nan, "p": np.nan},
        "flags": sample_size_flags(guest.medians.size),
    }
    if len(hosts) != 1:
        row["flags"].append(
            "several figures of the host match" if hosts else "no matching figure of the host"
        )
        return row
    host = hosts[0]
    row.update(
        host_n=host.n, host_boots=host.medians.size, host_value=float(np.median(host.medians))
    )
    effect = difference(guest.medians, host.medians, guest.key["better"])
    row.update(overhead=effect.effect, low=effect.low, high=effect.high, p=effect.p)
    if math.isnan(effect.effect):
        row["flags"].append("the host's figure is 0")
    elif guest.medians.size >= 2 > host.medians.size:
        row["flags"].append("host measured once: its spread is not in the interval")
    return row


@dataclass(frozen=True)
class Difference:
    """The effect between two sides.

    effect: 0.2 is 20 % worse; NaN when the base is not above 0. low, high: its interval; NaN with
    one boot. p: two-sided, by Mann and Whitney's exact test; NaN with too few boots.
    """

    effect: float
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan


def difference(new: Floats, base: Floats, better: str, *, tested: bool = True) -> Difference:
    """Compare the boots' medians of two sides. better: "higher" or "lower". tested: compute p."""
    middle = float(np.median(base))
    if middle <= 0:
        return Difference(math.nan)
    effect = float(relative_effect(np.median(new) / middle, better))
    if new.size < 2:
        return Difference(effect)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = bootstrap_medians(new, 0) / bootstrap_medians(base, 1)
        effects = np.asarray(relative_effect(ratios, better))
    low, high = central_interval(effects) if np.isfinite(effects).all() else (math.nan, math.nan)
    p = math.nan
    if tested and min_p_value(new.size, base.size) <= FALSE_DISCOVERY_RATE:
        # With more pairs the exact test takes minutes, and the asymptotic one is as accurate.
        exact = new.size * base.size <= _MAX_EXACT_PAIRS
        test = scipy.stats.mannwhitneyu(new, base, method="exact" if exact else "asymptotic")
        p = float(test.pvalue)
    return Difference(effect, low, high, p)


def relative_effect(ratio: Any, better: str) -> Any:
    """How much worse the new side is, from the ratio new / base (a number or an array)."""
    return 1 - ratio if better == "higher" else ratio - 1


def min_p_value(base: int, new: int) -> float:
    """The smallest p value of the test with these numbers of boots (3 and 3: 0.1)."""
    return 2 / math.comb(base + new, base)


def verdicts(
    effect: Sequence[float],
    p: Sequence[float],
    floor: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
) -> list[str]:
    """Judge several effects together: "worse", "better", "no difference" or "inconclusive".

    worse, better: the effect passes Benjamini and Hochberg's procedure at FALSE_DISCOVERY_RATE. It
    is also above MIN_EFFECT and above `floor`, the noise of one hypervisor (NaN or 0: not known).
    no difference: the whole interval is within MIN_EFFECT. inconclusive: all others, and those
    without a p value. With few boots the smallest p value is large (6 and 6: 2/924), so that one
    difference among many figures cannot be shown.
    """
    effects, p_values = np.asarray(effect, dtype=float), np.asarray(p, dtype=float)
    floors = np.nan_to_num(np.asarray(floor, dtype=float))
    tested = ~np.isnan(p_values)
    shown = np.zeros(p_values.size, dtype=bool)
    if tested.any():
        adjusted = scipy.stats.false_discovery_control(p_values[tested])
        shown[tested] = adjusted <= FALSE_DISCOVERY_RATE
    shown &= np.abs(effects) > np.maximum(MIN_EFFECT, floors)
    within = tested & (np.asarray(low) >= -MIN_EFFECT) & (np.asarray(high) <= MIN_EFFECT)
    direction = np.where(effects > 0, "worse", "better")
    words = np.where(shown, direction, np.where(within, "no difference", "inconclusive"))
    return [str(word) for word in words]
