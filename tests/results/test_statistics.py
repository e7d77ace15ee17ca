from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from harness.results import Sample, differences, statistics
from harness.results.schema import SCHEMA
from tests.results.synthetic import CASES, Synthetic

RUN = "20260102T030405Z-abcdef"
MAKER = Synthetic(RUN)


def frame(samples: Iterable[Sample]) -> pd.DataFrame:
    table: pd.DataFrame = pa.Table.from_pylist([s.row() for s in samples], SCHEMA).to_pandas()
    return table


def boots(metric: str, values: Iterable[Iterable[float]], **more: Any) -> list[Sample]:
    """values: one iterable for each boot, one value for each batch."""
    unit, better = more.pop("unit", "ns"), more.pop("better", "lower")
    return [
        MAKER.sample(metric, value, unit, better, boot=i, batch=j, **more)
        for i, batch in enumerate(values)
        for j, value in enumerate(batch)
    ]


def row(table: pd.DataFrame, **values: Any) -> dict[str, Any]:
    for name, value in values.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return {str(key): value for key, value in table.to_dict("records")[0].items()}


def test_interval_matches_scipy() -> None:
    medians = np.random.default_rng(3).normal(100, 5, 25)
    theirs = scipy.stats.bootstrap(
        (medians,), np.median, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    low, high = statistics.bootstrap_interval(medians) or (0.0, 0.0)
    assert low == pytest.approx(theirs.low, rel=0.005)
    assert high == pytest.approx(theirs.high, rel=0.005)


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_interval_matches_all_possible_draws(count: int) -> None:
    medians = [10.0, 14.0, 11.0, 19.0, 12.5][:count]
    every = [float(np.median(draw)) for draw in itertools.product(medians, repeat=count)]
    low, high = statistics.bootstrap_interval(medians) or (0.0, 0.0)
    # the draws repeat few values, so the quantile is one of them
    assert low == pytest.approx(np.quantile(every, 0.025, method="inverted_cdf"))
    assert high == pytest.approx(np.quantile(every, 0.975, method="inverted_cdf"))


def test_one_boot_has_no_interval_however_many_batches() -> None:
    table = statistics.summarise(frame(boots("exit.x", [np.linspace(90, 110, 500)])))
    summary = row(table)
    assert summary["n"] == 500
    assert summary["boots"] == 1
    assert np.isnan(summary["low"])
    assert np.isnan(summary["high"])
    assert summary["flags"] == ["one boot: no interval"]


def test_batches_do_not_narrow_the_interval() -> None:
    centres = [100.0, 108.0, 95.0, 103.0, 99.0, 101.0]
    few = statistics.summarise(frame(boots("exit.x", [[c - 1, c, c + 1] for c in centres])))
    many = statistics.summarise(frame(boots("exit.x", [[c - 1, c, c + 1] * 50 for c in centres])))
    assert row(few)["low"] == row(many)["low"] > 94
    assert 100 < row(few)["high"] == row(many)["high"] <= 108
    assert row(few)["flags"] == []


def test_summary_matches_independent_computation() -> None:
    values = np.random.default_rng(5).lognormal(3, 0.4, (6, 40))
    summary = row(statistics.summarise(frame(boots("exit.x", values))))
    assert summary["n"] == 240
    assert summary["boots"] == 6
    assert summary["median"] == pytest.approx(np.median(np.median(values, axis=1)))
    assert summary["min"] == values.min()
    assert summary["mean"] == pytest.approx(values.mean())
    assert summary["p99"] == pytest.approx(np.percentile(values, 99))
    assert summary["cv"] == pytest.approx(values.std(ddof=1) / values.mean())


def test_backends_hosts_and_settings_are_never_merged() -> None:
    samples = [
        *boots("exit.x", [[1.0]] * 2, backend="vmx"),
        *boots("exit.x", [[2.0]] * 2, backend="emulated"),
        *boots("exit.x", [[3.0]] * 2, backend="vmx", host="otherhost"),
        *boots("exit.x", [[4.0]] * 2, backend="vmx", parameters={"vcpus": 2}),
    ]
    table = statistics.summarise(frame(samples))
    assert sorted(table["median"]) == [1.0, 2.0, 3.0, 4.0]


def test_boots_of_two_runs_are_different_boots() -> None:
    other = Synthetic("20260103T030405Z-abcdef")
    samples = [*boots("exit.x", [[1.0], [2.0]]), other.sample("exit.x", 9, "ns", "lower", boot=0)]
    assert row(statistics.summarise(frame(samples)))["boots"] == 3


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(1, 1e6), min_size=2, max_size=12), st.randoms())
def test_interval_holds_between_the_extremes_and_ignores_order(
    medians: list[float], rng: Any
) -> None:
    low, high = statistics.bootstrap_interval(medians) or (0.0, 0.0)
    assert min(medians) * 0.999999 <= low <= high <= max(medians) * 1.000001
    table = statistics.summarise(frame(boots("exit.x", [[value] for value in medians])))
    assert (row(table)["low"], row(table)["high"]) == (low, high)  # seeded: the same each time


def test_control_is_subtracted_within_each_boot() -> None:
    samples = [
        *boots("exit.control", [[9, 10, 11], [49, 50, 51]], parameters={"instructions": 3}),
        *boots("exit.cpuid", [[110, 112, 114], [150, 152, 154]]),
    ]
    summary = row(statistics.net_costs(frame(samples)), case="cpuid", kind="ns")
    assert (summary["median"], summary["low"], summary["high"]) == (102, 102, 102)
    assert summary["min"] == 100


def test_boot_without_control_is_excluded_and_flagged() -> None:
    samples = [*boots("exit.control", [[10.0]]), *boots("exit.cpuid", [[110.0], [910.0]])]
    summary = row(statistics.net_costs(frame(samples)), case="cpuid")
    assert summary["median"] == 100
    assert summary["boots"] == 1
    assert "1 boots without control excluded" in summary["flags"]


def test_control_of_other_setting_is_not_used() -> None:
    samples = [
        *boots("exit.control", [[10.0]], parameters={"vcpus": 2}),
        *boots("exit.cpuid", [[110.0]], parameters={"vcpus": 1}),
    ]
    assert statistics.net_costs(frame(samples)).empty


def test_cost_below_the_control_is_flagged() -> None:
    samples = [*boots("exit.control", [[10.0]] * 6), *boots("exit.cpuid", [[9.0]] * 6)]
    assert "not above the control" in row(statistics.net_costs(frame(samples)))["flags"]


@pytest.mark.parametrize(
    ("case", "count", "flagged"),
    [
        ("cpuid", 1.0, False),
        ("cpuid", 1.049, False),
        ("cpuid", 1.06, True),
        ("cpuid", 0.94, True),
        ("control", 0.01, False),
        ("control", 1.0, True),
    ],
)
def test_unexpected_exit_counts_are_flagged(case: str, count: float, flagged: bool) -> None:
    counts = boots(f"exit.{case}.exits_per_op", [[count]] * 6, unit="exits", better="none")
    samples = frame([*boots(f"exit.{case}", [[9.0]] * 6), *counts])
    costs = statistics.summarise(samples[samples["unit"] == "ns"]).assign(case=case)
    summary = row(statistics.add_exit_counts(costs, samples))
    assert summary["exits"] == count
    assert bool(summary["flags"]) is flagged


@pytest.mark.parametrize(("cycles", "emulated"), [(2.9, False), (9.0, False), (9.3, True)])
def test_control_loop_detects_emulated_cpu(cycles: float, emulated: bool) -> None:
    samples = boots(
        "exit.control.cycles",
        [[cycles]] * 6,
        unit="cycles",
        backend="vmx",
        parameters={"instructions": 3},
    )
    table = frame(samples)
    assert row(statistics.control_cycles(table))["cycles"] == pytest.approx(cycles / 3)
    assert statistics.is_emulated(table) is emulated


def _io(host: list[list[float]], guest: list[list[float]], **more: Any) -> pd.DataFrame:
    parameters = {"rw": "randread", "bs": "4k", "depth": 1}
    guests = {**parameters, "vcpus": 1}
    return frame(
        [
            *boots(
                "io.x", host, hypervisor="native", backend="none", parameters=parameters, **more
            ),
            *boots("io.x", guest, hypervisor="kvm", parameters=guests, **more),
        ]
    )


def test_overhead_above_zero_is_worse_in_both_directions() -> None:
    fewer = row(differences.overheads(_io([[100.0]] * 6, [[80.0]] * 6, better="higher")))
    assert fewer["overhead"] == pytest.approx(0.2)
    assert (fewer["low"], fewer["high"]) == pytest.approx((0.2, 0.2))
    longer = row(differences.overheads(_io([[100.0]] * 6, [[130.0]] * 6, better="lower")))
    assert longer["overhead"] == pytest.approx(0.3)
    assert longer["flags"] == []


def test_overhead_interval_matches_all_possible_draws() -> None:
    host, guest = [100.0, 110.0, 95.0], [80.0, 70.0, 90.0]
    draws = [
        1 - float(np.median(g)) / float(np.median(h))
        for h in itertools.product(host, repeat=3)
        for g in itertools.product(guest, repeat=3)
    ]
    table = _io([[v] for v in host], [[v] for v in guest], better="higher")
    summary = row(differences.overheads(table))
    assert summary["low"] == pytest.approx(np.quantile(draws, 0.025), abs=0.02)
    assert summary["high"] == pytest.approx(np.quantile(draws, 0.975), abs=0.02)
    assert summary["flags"] == ["few boots (3): the interval covers at most 75%"]


@pytest.mark.parametrize(
    ("host", "guest", "flag"),
    [
        ([], [[1.0]] * 6, "no matching figure of the host"),
        ([[0.0]] * 6, [[1.0]] * 6, "the host's figure is 0"),
        ([[2.0]], [[1.0]] * 6, "host measured once: its spread is not in the interval"),
        ([[2.0]] * 6, [[1.0]], "one boot: no interval"),
    ],
)
def test_overhead_flags_missing_data(
    host: list[list[float]], guest: list[list[float]], flag: str
) -> None:
    assert flag in row(differences.overheads(_io(host, guest)))["flags"]


def test_overhead_accepts_any_baseline() -> None:
    samples = [
        *boots("net.x", [[2.0]] * 6, hypervisor="qemu", better="higher"),
        *boots("net.x", [[3.0]] * 6, hypervisor="kvm", better="higher"),
        *boots("net.y", [[3.0]] * 6, hypervisor="kvm", better="higher"),
        *boots("net.z", [[1.0]] * 6, hypervisor="qemu"),
        *boots("net.z", [[1.0]] * 6, hypervisor="kvm", better="none"),
    ]
    summary = row(differences.overheads(frame(samples), "qemu"))
    assert (summary["metric"], summary["hypervisor"]) == ("net.x", "kvm")
    assert summary["overhead"] == pytest.approx(-0.5)
    assert differences.overheads(frame(samples)).empty, (
        "there is neither a native nor a disk figure"
    )


def test_exit_costs_are_compared_without_control() -> None:
    """The control is 90 of 100, so half of the rest is an effect of 50 %, not of 5 %."""

    def side(name: str, cost: float) -> list[Sample]:
        return [
            *boots("exit.control", [[90.0]] * 6, hypervisor=name, unit="ns"),
            *boots("exit.cpuid", [[90.0 + cost]] * 6, hypervisor=name, unit="ns"),
        ]

    summary = row(differences.overheads(frame([*side("qemu", 10.0), *side("kvm", 5.0)]), "qemu"))
    assert (summary["metric"], summary["overhead"]) == ("exit.cpuid", pytest.approx(-0.5))


def test_p_value_is_exact() -> None:
    """Six boots that are all above six others give p = 2/924."""
    one, other = [[1.0 + n / 100] for n in range(6)], [[1.2 + n / 100] for n in range(6)]
    summary = row(differences.overheads(_io(one, other)))
    assert summary["p"] == pytest.approx(2 / 924)
    again = row(differences.overheads(_io(one, one)))
    assert again["p"] == pytest.approx(1.0)
    few = row(differences.overheads(_io(one[:3], other[:3])))
    assert np.isnan(few["p"]), "3 and 3 boots have no power"
    same = row(differences.overheads(_io([[1.0]] * 4, [[2.0]] * 4)))
    assert same["p"] == pytest.approx(2 / 70), "also with equal boots"


def judged(
    overhead: list[float], p: list[float], floor: float = np.nan, within: float = np.nan
) -> list[str]:
    """Verdicts for intervals from -within to within; NaN: no intervals."""
    many = len(p)
    return differences.verdicts(overhead, p, [floor] * many, [-within] * many, [within] * many)


def test_verdicts() -> None:
    low = 2 / 924
    assert judged([0.2, -0.2, 0.01], [low] * 3) == ["worse", "better", "inconclusive"]
    assert judged([0.2], [low], floor=0.0) == ["worse"]
    assert judged([0.2], [low], floor=0.3) == ["inconclusive"], "below the noise floor"
    assert judged([0.2], [0.5]) == ["inconclusive"]
    # one such p value among a hundred is expected by chance
    assert set(judged([0.2] * 100, [low] + [0.5] * 99)) == {"inconclusive"}
    assert judged([], []) == []


def test_no_difference_requires_a_small_interval() -> None:
    assert judged([0.01], [0.5], within=0.02) == ["no difference"]
    assert judged([0.01], [2 / 924], within=0.02) == ["no difference"], "significant, but too small"
    assert judged([0.01], [0.5], within=0.04) == ["inconclusive"]
    assert judged([0.01], [0.5], within=0.04, floor=0.05) == ["inconclusive"], "noise is no proof"
    assert judged([0.01], [np.nan], within=0.02) == ["inconclusive"], "too few boots for a test"
    for low, high in ((-0.04, 0.02), (-0.02, 0.04)):
        assert differences.verdicts([0.01], [0.5], [0.0], [low], [high]) == ["inconclusive"]


def test_false_discovery_rate_is_kept() -> None:
    """200 sessions of a hypervisor against itself, with 40 figures each."""
    random = np.random.default_rng(7)
    alarms = 0
    for _ in range(200):
        p = [float(mannwhitneyu(*np.exp(random.normal(0, 0.1, (2, 6)))).pvalue) for _ in range(40)]
        alarms += "worse" in judged([0.2] * 40, p)
    assert alarms <= 0.05 * 200


def test_host_settings_are_matched() -> None:
    samples = list(MAKER.io())
    table = differences.overheads(frame(samples))
    assert len(table) == 3 * 4
    assert table["overhead"].between(0.1, 0.5).all()
    several = [
        *boots("io.x", [[1.0]] * 2, hypervisor="native", parameters={"depth": 1, "bs": "4k"}),
        *boots("io.x", [[9.0]] * 2, hypervisor="native", parameters={"depth": 1, "bs": "64k"}),
        *boots("io.x", [[1.0]] * 2, parameters={"depth": 1}),
    ]
    summary = row(differences.overheads(frame(several)))
    assert np.isnan(summary["overhead"])
    assert "several figures of the host match" in summary["flags"]


def test_net_costs_recover_synthetic_costs() -> None:
    table = statistics.net_costs(frame(Synthetic(RUN, boots=8).exits()))
    for case, (cost, _) in CASES.items():
        if case != "control":
            assert row(table, case=case, kind="ns")["median"] == pytest.approx(cost, rel=0.06)
            assert row(table, case=case, kind="cycles")["median"] == pytest.approx(
                2 * cost, rel=0.06
            )


def test_empty_frames_give_empty_tables() -> None:
    empty = frame([])
    for make in (
        statistics.summarise,
        statistics.net_costs,
        statistics.control_cycles,
        differences.overheads,
        statistics.utilization,
    ):
        assert make(empty).empty
    assert not statistics.is_emulated(empty)


def test_utilization_mean_and_peak() -> None:
    samples = [
        MAKER.sample("host.cpu.user", value, "%", "none", batch=i)
        for i, value in enumerate([0, 10, 50])
    ]
    summary = row(statistics.utilization(frame(samples)))
    assert (summary["n"], summary["mean"], summary["peak"], summary["low"]) == (3, 20, 50, 0)


def costs(ops: int = 100_000, batches: int = 30, **more: Any) -> list[Sample]:
    """Six boots of a control and of one case, with different parameters."""
    both = (("control", 10.0, 10_000_000), ("cpuid", 110.0, ops))
    return [
        sample
        for case, cost, count in both
        for sample in boots(
            f"exit.{case}", [[cost] * batches] * 6, parameters={"ops": count, "ring": 0}, **more
        )
    ]


def counts(value: float, **parameters: int) -> list[Sample]:
    metric = "exit.cpuid.exits_per_op"
    return boots(metric, [[value]] * 6, unit="exits/op", better="none", parameters=parameters)


@pytest.mark.parametrize(
    ("counted", "flags"),
    [
        (counts(1.0, ops=100_000, ring=0), []),
        (counts(1.3, ops=100_000, ring=0), ["1.3 exits per operation, expected 1"]),
        (counts(1.0, ops=100_000, ring=3), ["exits not counted"]),
        ([], ["exits not counted"]),
    ],
)
def test_costs_flag_exit_counts(counted: list[Sample], flags: list[str]) -> None:
    assert row(statistics.net_costs(frame([*costs(), *counted])))["flags"] == flags


def test_native_costs_need_no_exit_count() -> None:
    native = costs(hypervisor="native")
    assert row(statistics.net_costs(frame(native)))["flags"] == []


@pytest.mark.parametrize(
    ("ops", "batches", "flag"),
    [
        (50, 30, "batches of 50 operations, 30 per boot"),
        (200_000, 12, "batches of 200,000 operations, 12 per boot"),
        (99_999, 3, "batches of 99,999 operations, 3 per boot"),
        (100_000, 30, ""),
    ],
)
def test_costs_flag_small_and_few_batches(ops: int, batches: int, flag: str) -> None:
    samples = [*costs(ops, batches), *counts(1.0, ops=ops, ring=0)]
    expected = [f"{flag} (required: 100,000 and 30)"] if flag else []
    assert row(statistics.net_costs(frame(samples)))["flags"] == expected
