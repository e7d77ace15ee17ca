"""Statistics over samples. Derived, never stored; the samples stay.

Boots, not batches, are what repeats independently: batches of one boot share its memory layout,
its host load and its clock. So every location here is the median of the boots' medians, and every
interval a cluster bootstrap: boots are drawn with replacement, RESAMPLES times, by a generator
seeded with SEED for each row anew (so no row depends on another), and the interval is the central
CONFIDENCE of the drawn medians (percentile method; the bias-corrected one is unsound for medians
of few values). With one boot there is no interval. Rows of different backends are never merged.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
from numpy.typing import NDArray

from harness.results.schema import canonical, decode

CONFIDENCE = 0.95
RESAMPLES = 4000
SEED = 20240229
EXITS_TOLERANCE = 0.05
CYCLES_AN_INSTRUCTION = 3.0
EFFECT = 0.03  # what is less than that is called no difference
FALSE_DISCOVERIES = 0.05  # of what is called a difference, how much may be none

WHERE = ["hypervisor", "backend", "host", "image"]
KEYS = [*WHERE, "metric", "parameters", "unit", "better"]
BOOT = ["run", "boot"]

# What may differ between a case and its control in one boot: how much work a batch was.
WORK = frozenset({"instructions", "ops", "operations", "batches", "iterations", "case"})
_EXIT = re.compile(r"^exit\.(?P<case>[^.]+)(?P<kind>\.cycles|\.exits_per_op)?$")

Floats = NDArray[np.float64]


def _draw(medians: Floats, random: np.random.Generator) -> Floats:
    """RESAMPLES medians of boots drawn with replacement."""
    drawn = random.integers(0, medians.size, size=(RESAMPLES, medians.size))
    return np.asarray(np.median(medians[drawn], axis=1), dtype=np.float64)


def _central(values: Floats) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def interval(medians: Sequence[float] | Floats) -> tuple[float, float] | None:
    """Bootstrap interval of the median, from one median a boot; None with fewer than two boots."""
    boots = np.asarray(medians, dtype=np.float64)
    if boots.size < 2:
        return None
    return _central(_draw(boots, np.random.default_rng(SEED)))


def few(boots: int) -> list[str]:
    """What must be said beside a figure of so few boots."""
    if boots < 2:
        return ["one boot: no interval"]
    # the widest interval that boots can give spans them all; this is what it covers
    reach = 1 - 2 * 0.5**boots
    if reach < CONFIDENCE:
        return [f"few boots ({boots}): the interval covers at most {reach:.0%}"]
    return []


def boot_medians(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a boot and key: KEYS, run, boot, value (the boot's median)."""
    return frame.groupby([*KEYS, *BOOT], sort=True, dropna=False)["value"].median().reset_index()


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """One row for each of KEYS.

    Columns beyond KEYS: n (samples), boots, median (of the boots' medians), low, high (its
    interval; NaN with one boot), mean, min, p99 (over all samples), cv (standard deviation over
    mean; NaN with one sample or a mean of 0), flags (list of text).
    """
    groups = frame.groupby(KEYS, sort=True, dropna=False)["value"]
    table = groups.agg(n="size", mean="mean", min="min", deviation="std").reset_index()
    table["p99"] = groups.quantile(0.99).to_numpy()
    table["cv"] = table.pop("deviation") / table["mean"].abs().replace(0.0, np.nan)
    by_key = boot_medians(frame).groupby(KEYS, sort=True, dropna=False)["value"]
    located = [_locate(values.to_numpy(dtype=np.float64)) for _, values in by_key]
    for column in ("boots", "median", "low", "high", "flags"):
        table[column] = pd.Series([row[column] for row in located], dtype=_DTYPES.get(column))
    return table


_DTYPES: dict[str, Any] = {"boots": "int64", "flags": "object"}


def _locate(medians: Floats) -> dict[str, Any]:
    low, high = interval(medians) or (np.nan, np.nan)
    return {
        "boots": medians.size,
        "median": float(np.median(medians)),
        "low": low,
        "high": high,
        "flags": few(medians.size),
    }


def exit_parts(metric: str) -> tuple[str, str] | None:
    """("cpuid", "cycles") of "exit.cpuid.cycles"; kind is "ns", "cycles" or "exits_per_op"."""
    match = _EXIT.match(metric)
    if not match:
        return None
    return match["case"], (match["kind"] or ".ns")[1:]


def exits(frame: pd.DataFrame) -> pd.DataFrame:
    """The exit.* samples with columns case and kind added."""
    parts = frame["metric"].map(exit_parts)
    mine = frame[parts.notna()].copy()
    mine["case"] = [part[0] for part in parts.dropna()]
    mine["kind"] = [part[1] for part in parts.dropna()]
    return mine


def subtract_control(frame: pd.DataFrame) -> pd.DataFrame:
    """The exit.* costs (ns and cycles), each less its own boot's median of the control loop.

    Control and case match by hypervisor, backend, host, image, run, boot, kind and every
    parameter but the amount of work. Costs of a boot without a control are left out: an
    uncorrected cost beside corrected ones would mislead.
    """
    costs = exits(frame)
    costs = costs[costs["kind"] != "exits_per_op"].copy()
    costs["setting"] = costs["parameters"].map(_setting)
    keys = [*WHERE, *BOOT, "kind", "setting"]
    is_control = costs["case"] == "control"
    control = costs[is_control].groupby(keys, dropna=False)["value"].median().rename("control")
    net = costs[~is_control].merge(control.reset_index(), on=keys, how="inner")
    net["value"] -= net["control"]
    return net[[*frame.columns, "case", "kind"]]


def _setting(parameters: str) -> str:
    return canonical({k: v for k, v in decode(parameters).items() if k not in WORK})


def net_costs(frame: pd.DataFrame) -> pd.DataFrame:
    """`summarise` of the costs less control, with case and kind ("ns" or "cycles").

    A row is flagged when boots lacked a control, or the net cost is not above zero.
    """
    net = subtract_control(frame)
    table = _with_case(summarise(net))
    raw = summarise(frame[frame["metric"].isin(net["metric"].unique())])
    before = raw.rename(columns={"boots": "before"})[[*KEYS, "before"]]
    table = table.merge(before, on=KEYS, how="left")
    lost = (table["before"] - table["boots"]).tolist()
    for missing, median, flags in zip(lost, table["median"], table["flags"], strict=True):
        if missing:
            flags.append(f"{missing} boots without control left out")
        if median <= 0:
            flags.append("not above the control")
    return table.drop(columns="before")


def _with_case(table: pd.DataFrame) -> pd.DataFrame:
    parts = [exit_parts(metric) or ("", "") for metric in table["metric"]]
    return table.assign(case=[case for case, _ in parts], kind=[kind for _, kind in parts])


def exits_per_operation(frame: pd.DataFrame) -> pd.DataFrame:
    """`summarise` of exit.*.exits_per_op, with case; rows off their expectation are flagged.

    Expected: 1 exit an operation, and for the control none, each within EXITS_TOLERANCE.
    """
    mine = exits(frame)
    table = _with_case(summarise(mine[mine["kind"] == "exits_per_op"]))
    for case, median, flags in zip(table["case"], table["median"], table["flags"], strict=True):
        expected = 0.0 if case == "control" else 1.0
        if abs(median - expected) > EXITS_TOLERANCE:
            flags.append(f"{median:.3g} exits an operation, expected {expected:.0f}")
    return table


def control_cycles(frame: pd.DataFrame) -> pd.DataFrame:
    """TSC cycles the control loop takes for an instruction: WHERE, cycles, emulated.

    Needs the parameter "instructions" (instructions an operation of the control loop); rows
    without it are left out. emulated: above CYCLES_AN_INSTRUCTION, what no real CPU needs for
    a loop of simple instructions.
    """
    table = summarise(frame[frame["metric"] == "exit.control.cycles"])
    count = table["parameters"].map(lambda text: decode(text).get("instructions"))
    instructions = pd.to_numeric(count, errors="coerce").astype(float)
    known = table[instructions > 0].copy()
    known["cycles"] = known["median"] / instructions[known.index]
    known["emulated"] = known["cycles"] > CYCLES_AN_INSTRUCTION
    return known[[*WHERE, "cycles", "emulated"]].reset_index(drop=True)


def is_emulated(frame: pd.DataFrame) -> bool:
    """Whether any sample is of a CPU in software, by its backend or by its control loop."""
    return bool((frame["backend"] == "emulated").any() or control_cycles(frame)["emulated"].any())


def overheads(frame: pd.DataFrame, baseline: str = "native") -> pd.DataFrame:
    """Figures of guests beside those of the baseline, the host itself as long as nobody says
    otherwise.

    Of every metric that both sides have and that has a better direction, but for host.*; of exit.*
    the costs in ns, less their control. Of io.* also those without a baseline. Joined on host,
    metric, unit and the parameters that both sides have. overhead is 1 - guest/host where higher is
    better and guest/host - 1 where lower is: 0.2 is 20 % worse than the host. Its interval draws
    the boots of both sides, each on its own; a side with one boot stays as it is (flagged). p: of
    the boots, two-sided, by Mann and Whitney's exact test; NaN where so few cannot tell. Columns:
    KEYS, guest, host_value, guest_n, host_n, guest_boots, host_boots, overhead, low, high, p,
    flags. A guest's figure with no host's beside it has NaN there and is flagged.
    """
    net = subtract_control(frame)
    figures = frame[~frame["metric"].str.match(r"(exit|host)\.")]
    frame = pd.concat([figures, net.loc[net["kind"] == "ns", [*frame.columns]]])
    compared = frame["better"] != ""
    there = frame.loc[frame["hypervisor"] == baseline, "metric"].unique()
    both = frame["metric"].isin(there) | frame["metric"].str.startswith("io.")
    sides = _sides(frame[compared & both])
    rows = [
        {**guest.key, **_compare(guest, _baselines(guest, sides, baseline))}
        for guest in sides
        if guest.key["hypervisor"] != baseline
    ]
    return pd.DataFrame(rows, columns=_OVERHEAD_COLUMNS)


@dataclass(frozen=True)
class _Side:
    """One side of a comparison: its key, its boots' medians, its number of samples."""

    key: dict[str, str]
    medians: Floats
    n: int


def _sides(frame: pd.DataFrame) -> list[_Side]:
    groups = frame.groupby([*KEYS, *BOOT], dropna=False)["value"].agg(["median", "size"])
    return [
        _Side(
            dict(zip(KEYS, map(str, key), strict=True)),
            boots["median"].to_numpy(dtype=np.float64),
            int(boots["size"].sum()),
        )
        for key, boots in groups.reset_index().groupby(KEYS, dropna=False)
    ]


_OVERHEAD_COLUMNS = [
    *KEYS,
    *("guest", "host_value", "guest_n", "host_n", "guest_boots", "host_boots"),
    *("overhead", "low", "high", "p", "flags"),
]


def _baselines(guest: _Side, sides: list[_Side], baseline: str) -> list[_Side]:
    """The host's figures that fit: the parameters both sides have agree, as many as can be."""
    same = ("host", "metric", "unit", "better")
    mine = decode(guest.key["parameters"])
    fits: list[tuple[int, _Side]] = []
    for side in sides:
        if side.key["hypervisor"] == baseline and all(side.key[k] == guest.key[k] for k in same):
            shared = decode(side.key["parameters"]).items()
            common = {k: v for k, v in shared if k in mine}
            if all(mine[k] == v for k, v in common.items()):
                fits.append((len(common), side))
    best = max((count for count, _ in fits), default=0)
    return [side for count, side in fits if count == best]


def _compare(guest: _Side, hosts: list[_Side]) -> dict[str, Any]:
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
    base = float(np.median(host.medians))
    row.update(host_n=host.n, host_boots=host.medians.size, host_value=base)
    if base <= 0:
        row["flags"].append("the host's figure is 0")
        return row
    better = guest.key["better"]
    row["overhead"] = float(_overhead(row["guest"] / base, better))
    if guest.medians.size >= 2:
        random = np.random.default_rng(SEED)
        drawn = _draw(guest.medians, random) / _draw(host.medians, random)
        row["low"], row["high"] = _central(np.asarray(_overhead(drawn, better)))
        if _can_tell(guest.medians.size, host.medians.size):
            test = scipy.stats.mannwhitneyu(guest.medians, host.medians, method="exact")
            row["p"] = float(test.pvalue)
        if host.medians.size < 2:
            row["flags"].append("host measured once: its spread is not in the interval")
    return row


def _overhead(ratio: Any, better: str) -> Any:
    return 1 - ratio if better == "higher" else ratio - 1


def _can_tell(one: int, other: int) -> bool:
    """Whether so many boots a side can show a difference at all: of 3 and 3 the least p is 0.1."""
    return 2 / math.comb(one + other, one) <= FALSE_DISCOVERIES


def verdicts(overhead: Sequence[float], p: Sequence[float], floor: Sequence[float]) -> list[str]:
    """What is to be made of several overheads together: "worse", "better", "no difference" (none
    was shown) or "" (it could not be tested).

    A difference is one that Benjamini and Hochberg's procedure keeps at FALSE_DISCOVERIES, and that
    is greater than EFFECT and than `floor`: what the same hypervisor differed from itself, if it
    was measured twice (NaN or 0 if not).
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
    words = np.where(shown, np.where(effects > 0, "worse", "better"), "no difference")
    return [str(word) if known else "" for word, known in zip(words, tested, strict=True)]


def utilization(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and peak of the host.* samples: host, metric, unit, n, mean, peak, low.

    A time series of one host, not repeated boots: so no interval. peak is the maximum, low
    the minimum.
    """
    mine = frame[frame["metric"].str.startswith("host.")]
    groups = mine.groupby(["host", "metric", "unit"], sort=True)["value"]
    return groups.agg(n="size", mean="mean", peak="max", low="min").reset_index()
