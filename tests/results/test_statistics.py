"""Medians, intervals, exit costs and utilization."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.results import Sample, differences, statistics
from tests.results.frames import MAKER, RUN, boots, frame, row
from tests.results.synthetic import CASES, Synthetic


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
