"""Statistics over samples. Derived, never stored; the samples stay.

Boots, not batches, are what repeats independently: batches of one boot share its memory layout,
its host load and its clock. So every location here is the median of the boots' medians, and every
interval a cluster bootstrap: boots are drawn with replacement, RESAMPLES times, by a generator
seeded with SEED (the same draws for all rows of as many boots, so no row depends on another), and
the interval is the central CONFIDENCE of the drawn medians (percentile method; the bias-corrected
one is unsound for medians of few values). With one boot there is no interval. Rows of different
backends are never merged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.results.schema import Parameter, canonical, decode

CONFIDENCE = 0.95
RESAMPLES = 4000
SEED = 20240229
EXITS_TOLERANCE = 0.05
BATCH_OPERATIONS = 100_000  # the least that is asked for
BOOT_BATCHES = 30
# metrics of how busy guests were, and of all utilization: no figures to compare
GUEST_UTILIZATION = r"guest\.(cpu|memory|pressure)\."
UTILIZATION = rf"(host\.|{GUEST_UTILIZATION})"
CYCLES_AN_INSTRUCTION = 3.0

WHERE = ["hypervisor", "backend", "host", "image"]
KEYS = [*WHERE, "metric", "parameters", "unit", "better"]
BOOT = ["run", "boot"]

# What may differ between a case and its control in one boot: how much work a batch was.
WORK = frozenset({"instructions", "ops", "operations", "batches", "iterations", "case"})
_EXIT = re.compile(r"^exit\.(?P<case>[^.]+)(?P<kind>\.cycles|\.exits_per_op)?$")

Floats = NDArray[np.float64]


@lru_cache(maxsize=64)
def _middle(boots: int, side: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Of RESAMPLES draws of so many boots: which two of the sorted boots lie in the middle."""
    random = np.random.default_rng([SEED, side])
    drawn = np.sort(random.integers(0, boots, size=(RESAMPLES, boots)), axis=1)
    return drawn[:, (boots - 1) // 2].copy(), drawn[:, boots // 2].copy()  # not the whole table


def draw(medians: Floats, side: int = 0) -> Floats:
    """RESAMPLES medians of boots drawn with replacement; two sides are drawn apart."""
    low, high = _middle(medians.size, side)
    ordered = np.sort(medians)
    return np.asarray((ordered[low] + ordered[high]) / 2)


def central(values: Floats) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def interval(medians: Sequence[float] | Floats) -> tuple[float, float] | None:
    """Bootstrap interval of the median, from one median a boot; None with fewer than two boots."""
    boots = np.asarray(medians, dtype=np.float64)
    if boots.size < 2:
        return None
    return central(draw(boots))


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
    return (
        frame.groupby([*KEYS, *BOOT], sort=True, dropna=False, observed=True)["value"]
        .median()
        .reset_index()
    )


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """One row for each of KEYS.

    Columns beyond KEYS: n (samples), boots, median (of the boots' medians), low, high (its
    interval; NaN with one boot), mean, min, p99 (over all samples), cv (standard deviation over
    mean; NaN with one sample or a mean of 0), flags (list of text).
    """
    groups = frame.groupby(KEYS, sort=True, dropna=False, observed=True)["value"]
    table = groups.agg(n="size", mean="mean", min="min", deviation="std").reset_index()
    table["p99"] = groups.quantile(0.99).to_numpy()
    table["cv"] = table.pop("deviation") / table["mean"].abs().replace(0.0, np.nan)
    by_key = boot_medians(frame).groupby(KEYS, sort=True, dropna=False, observed=True)["value"]
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
    parts = {metric: exit_parts(metric) for metric in frame["metric"].unique()}
    known = {metric: part for metric, part in parts.items() if part}
    mine = frame[frame["metric"].isin(list(known))]
    names = mine["metric"].astype(str)
    return mine.assign(
        case=names.map({metric: part[0] for metric, part in known.items()}),
        kind=names.map({metric: part[1] for metric, part in known.items()}),
    )


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
    control = (
        costs[is_control]
        .groupby(keys, dropna=False, observed=True)["value"]
        .median()
        .rename("control")
    )
    net = costs[~is_control].merge(control.reset_index(), on=keys, how="inner")
    net["value"] -= net["control"]
    return net[[*frame.columns, "case", "kind"]]


def _setting(parameters: str) -> str:
    return canonical({k: v for k, v in decode(parameters).items() if k not in WORK})


def net_costs(frame: pd.DataFrame) -> pd.DataFrame:
    """`summarise` of the costs less control, with case, kind ("ns" or "cycles") and exits, as
    `with_exits` has them.

    A row is flagged also when boots lacked a control, the net cost is not above zero, or there
    were fewer operations or batches than asked for.
    """
    net = subtract_control(frame)
    table = _with_case(summarise(net))
    raw = summarise(frame[frame["metric"].isin(net["metric"].unique())])
    before = raw.rename(columns={"boots": "before"})[[*KEYS, "before"]]
    table = table.merge(before, on=KEYS, how="left")
    lost, batches = table["before"] - table["boots"], table["n"] // table["boots"]
    columns = [lost, table["median"], table["parameters"], batches, table["flags"]]
    for missing, median, parameters, count, flags in zip(*columns, strict=True):
        if missing:
            flags.append(f"{missing} boots without control left out")
        if median <= 0:
            flags.append("not above the control")
        flags.extend(_short(decode(parameters).get("ops"), count))
    return with_exits(table.drop(columns="before"), frame)


def _short(ops: Parameter | None, batches: int) -> list[str]:
    """What must be said of so many operations a batch, where they are known, and batches a boot."""
    if not isinstance(ops, int | float):
        return []
    if ops >= BATCH_OPERATIONS and batches >= BOOT_BATCHES:
        return []
    told = f"batches of {ops:,} operations, {batches} a boot"
    return [f"{told}: at least {BATCH_OPERATIONS:,} and {BOOT_BATCHES} are asked for"]


def _with_case(table: pd.DataFrame) -> pd.DataFrame:
    parts = [exit_parts(metric) or ("", "") for metric in table["metric"]]
    return table.assign(case=[case for case, _ in parts], kind=[kind for _, kind in parts])


def with_exits(table: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """Costs by case with exits: an operation's, of exit.*.exits_per_op; NaN where not counted.

    Expected: 1 exit an operation, and for the control none, each within EXITS_TOLERANCE. Rows off
    that are flagged, and those without a count; but for the control, and natively nothing exits.
    """
    mine = exits(frame)
    counts = _with_case(summarise(mine[mine["kind"] == "exits_per_op"]))
    keys = [*WHERE, "case", "parameters"]
    counts = counts.rename(columns={"median": "exits"})[[*keys, "exits"]]
    table = table.merge(counts, on=keys, how="left")
    columns = [table[name] for name in ("case", "hypervisor", "exits", "flags")]
    for case, hypervisor, count, flags in zip(*columns, strict=True):
        expected = 0.0 if case == "control" else 1.0
        if abs(count - expected) > EXITS_TOLERANCE:
            flags.append(f"{count:.3g} exits an operation, expected {expected:.0f}")
        elif np.isnan(count) and expected and hypervisor != "native":
            flags.append("exits not counted")
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


def utilization(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and peak of the host.* samples: host, metric, unit, n, mean, peak, low.

    A time series of one host, not repeated boots: so no interval. peak is the maximum, low
    the minimum.
    """
    mine = frame[frame["metric"].str.startswith("host.")]
    groups = mine.groupby(["host", "metric", "unit"], sort=True, observed=True)["value"]
    return groups.agg(n="size", mean="mean", peak="max", low="min").reset_index()
