"""Statistics over samples. They are computed on demand; only the samples are stored.

The unit of replication is the boot. Batches within one boot share its memory layout, host load and
clock, so they are not independent. A location is the median of the boots' medians. An interval is a
cluster bootstrap over boots: RESAMPLES draws with replacement from a generator with the fixed SEED.
All rows with the same number of boots use the same draws, so that no row depends on another. The
interval holds the central CONFIDENCE of the medians (percentile method; the bias-corrected one is
invalid for medians of few values). One boot has no interval. Different backends are never merged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.results.schema import Parameter, decode_parameters, encode_parameters

CONFIDENCE = 0.95
RESAMPLES = 4000
SEED = 20240229
EXITS_TOLERANCE = 0.05
MIN_OPERATIONS = 100_000  # a batch of exits
MIN_BATCHES = 30  # of exits, a boot
# Utilization of guests and of the host is reported, but not compared.
GUEST_UTILIZATION = r"guest\.(cpu|memory|pressure)\."
UTILIZATION = rf"(host\.|{GUEST_UTILIZATION})"
MAX_CYCLES_PER_INSTRUCTION = 3.0

TARGET = ["hypervisor", "backend", "host", "image"]
TEST = ["suite", "test"]
KEYS = [*TARGET, *TEST, "metric", "parameters", "unit", "better"]
BOOT = ["run", "boot"]

# Parameters that describe the amount of work: a case and its control may differ in them.
WORK = frozenset({"instructions", "ops", "operations", "batches", "iterations", "case"})
_EXIT = re.compile(r"^exit\.(?P<case>[^.]+)(?P<kind>\.cycles|\.exits_per_op)?$")

Floats = NDArray[np.float64]


@lru_cache(maxsize=64)
def _middle_ranks(boots: int, side: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Ranks of the two middle boots in each of RESAMPLES draws."""
    random = np.random.default_rng([SEED, side])
    ranks = np.sort(random.integers(0, boots, size=(RESAMPLES, boots)), axis=1)
    # copies, so that the cache does not keep the whole table
    return ranks[:, (boots - 1) // 2].copy(), ranks[:, boots // 2].copy()


def bootstrap_medians(medians: Floats, side: int = 0) -> Floats:
    """RESAMPLES bootstrap medians of boots. side: sides with different numbers are independent."""
    low, high = _middle_ranks(medians.size, side)
    ordered = np.sort(medians)
    return np.asarray((ordered[low] + ordered[high]) / 2)


def central_interval(values: Floats) -> tuple[float, float]:
    """The interval that holds the central CONFIDENCE of the values."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_interval(medians: Sequence[float] | Floats) -> tuple[float, float] | None:
    """Interval of the median, from one median a boot; None with fewer than two boots."""
    boots = np.asarray(medians, dtype=np.float64)
    if boots.size < 2:
        return None
    return central_interval(bootstrap_medians(boots))


def _best_coverage(boots: int) -> float:
    """The coverage of the median by the widest possible interval, which spans all boots."""
    return 1 - 2 * 0.5**boots


def reaches_confidence(boots: int) -> bool:
    """Whether an interval over so many boots can cover CONFIDENCE; with fewer it is their range."""
    return _best_coverage(boots) >= CONFIDENCE


def sample_size_flags(boots: int) -> list[str]:
    """The flags of a figure with too few boots for its interval."""
    if boots < 2:
        return ["one boot: no interval"]
    if not reaches_confidence(boots):
        return [f"few boots ({boots}): the interval covers at most {_best_coverage(boots):.0%}"]
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
    locations = [_location(values.to_numpy(dtype=np.float64)) for _, values in by_key]
    for column in ("boots", "median", "low", "high", "flags"):
        table[column] = pd.Series([row[column] for row in locations], dtype=_DTYPES.get(column))
    return table


_DTYPES: dict[str, Any] = {"boots": "int64", "flags": "object"}


def _location(medians: Floats) -> dict[str, Any]:
    low, high = bootstrap_interval(medians) or (np.nan, np.nan)
    return {
        "boots": medians.size,
        "median": float(np.median(medians)),
        "low": low,
        "high": high,
        "flags": sample_size_flags(medians.size),
    }


def exit_parts(metric: str) -> tuple[str, str] | None:
    """Case and kind of a metric: "exit.cpuid.cycles" -> ("cpuid", "cycles"); None for others.

    kind: "ns", "cycles" or "exits_per_op".
    """
    match = _EXIT.match(metric)
    if not match:
        return None
    return match["case"], (match["kind"] or ".ns")[1:]


def exit_samples(frame: pd.DataFrame) -> pd.DataFrame:
    """The exit.* samples with columns case and kind added."""
    parts = {metric: exit_parts(metric) for metric in frame["metric"].unique()}
    known = {metric: part for metric, part in parts.items() if part}
    samples = frame[frame["metric"].isin(list(known))]
    names = samples["metric"].astype(str)
    return samples.assign(
        case=names.map({metric: part[0] for metric, part in known.items()}),
        kind=names.map({metric: part[1] for metric, part in known.items()}),
    )


def subtract_control(frame: pd.DataFrame) -> pd.DataFrame:
    """The exit.* costs (ns and cycles) minus the median of the same boot's control loop.

    Control and case match by hypervisor, backend, host, image, suite, run, boot, kind and all
    parameters except the amount of work, and by the test if that has controls of its own. Costs of
    a boot without a control are excluded, since they cannot be compared with corrected ones.
    """
    costs = exit_samples(frame)
    costs = costs[costs["kind"] != "exits_per_op"].copy()
    costs["setting"] = costs["parameters"].map(_setting)
    of_suite = [*TARGET, "suite", *BOOT, "kind", "setting"]
    is_control = costs["case"] == "control"
    net = costs[~is_control]
    for keys, name in (([*of_suite, "test"], "own"), (of_suite, "control")):
        groups = costs[is_control].groupby(keys, dropna=False, observed=True)["value"]
        net = net.merge(groups.median().rename(name).reset_index(), on=keys, how="left")
    has_own = net["test"].isin(costs.loc[is_control, "test"].unique())
    net["control"] = net["own"].where(has_own, net["control"])
    net = net[net["control"].notna()].reset_index(drop=True)
    net["value"] -= net["control"]
    return net[[*frame.columns, "case", "kind"]]


def _setting(parameters: str) -> str:
    return encode_parameters(
        {k: v for k, v in decode_parameters(parameters).items() if k not in WORK}
    )


def net_costs(frame: pd.DataFrame) -> pd.DataFrame:
    """`summarise` of `subtract_control`, with columns case, kind ("ns" or "cycles") and exits.

    Further flags: boots without a control, a net cost that is not above zero, too few operations
    or batches. exits: see `add_exit_counts`.
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
            flags.append(f"{missing} boots without control excluded")
        if median <= 0:
            flags.append("not above the control")
        flags.extend(_batch_flags(decode_parameters(parameters).get("ops"), count))
    return add_exit_counts(table.drop(columns="before"), frame)


def _batch_flags(ops: Parameter | None, batches: int) -> list[str]:
    """The flag of too few operations a batch, or too few batches a boot. ops: None: not known."""
    if not isinstance(ops, int | float):
        return []
    if ops >= MIN_OPERATIONS and batches >= MIN_BATCHES:
        return []
    actual = f"batches of {ops:,} operations, {batches} per boot"
    return [f"{actual} (required: {MIN_OPERATIONS:,} and {MIN_BATCHES})"]


def _with_case(table: pd.DataFrame) -> pd.DataFrame:
    parts = [exit_parts(metric) or ("", "") for metric in table["metric"]]
    return table.assign(case=[case for case, _ in parts], kind=[kind for _, kind in parts])


def add_exit_counts(table: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """Add the column exits: exits an operation, from exit.*.exits_per_op; NaN when not counted.

    The expected value is 1, and 0 for the control, within EXITS_TOLERANCE. Rows with another value
    or without a count are flagged. The control and native runs need no count.
    """
    samples = exit_samples(frame)
    counts = _with_case(summarise(samples[samples["kind"] == "exits_per_op"]))
    keys = [*TARGET, *TEST, "case", "parameters"]
    counts = counts.rename(columns={"median": "exits"})[[*keys, "exits"]]
    table = table.merge(counts, on=keys, how="left")
    columns = [table[name] for name in ("case", "hypervisor", "exits", "flags")]
    for case, hypervisor, count, flags in zip(*columns, strict=True):
        expected = 0.0 if case == "control" else 1.0
        if abs(count - expected) > EXITS_TOLERANCE:
            flags.append(f"{count:.3g} exits per operation, expected {expected:.0f}")
        elif np.isnan(count) and expected and hypervisor != "native":
            flags.append("exits not counted")
    return table


def control_cycles(frame: pd.DataFrame) -> pd.DataFrame:
    """TSC cycles an instruction of the control loop: TARGET, cycles, emulated.

    Rows without the parameter "instructions" (instructions an operation of the control loop) are
    excluded. emulated: above MAX_CYCLES_PER_INSTRUCTION, which no real CPU reaches in a loop of
    simple instructions.
    """
    table = summarise(frame[frame["metric"] == "exit.control.cycles"])
    count = table["parameters"].map(lambda text: decode_parameters(text).get("instructions"))
    instructions = pd.to_numeric(count, errors="coerce").astype(float)
    known = table[instructions > 0].copy()
    known["cycles"] = known["median"] / instructions[known.index]
    known["emulated"] = known["cycles"] > MAX_CYCLES_PER_INSTRUCTION
    return known[[*TARGET, "cycles", "emulated"]].reset_index(drop=True)


def is_emulated(frame: pd.DataFrame) -> bool:
    """Whether any sample is from an emulated CPU, by its backend or by its control loop."""
    return bool((frame["backend"] == "emulated").any() or control_cycles(frame)["emulated"].any())


def utilization(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean, maximum (peak) and minimum (low) of the host.* samples, by host, metric and unit.

    The samples are a time series, not repeated boots, so there is no interval. n: their number.
    """
    samples = frame[frame["metric"].str.startswith("host.")]
    groups = samples.groupby(["host", "metric", "unit"], sort=True, observed=True)["value"]
    return groups.agg(n="size", mean="mean", peak="max", low="min").reset_index()
