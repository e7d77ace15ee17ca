"""Effects between two sides, their intervals, p values and verdicts."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import mannwhitneyu

from harness.results import Sample, differences
from tests.results.frames import MAKER, boots, frame, row


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


@pytest.mark.slow
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
