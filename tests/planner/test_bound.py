"""The bound: no plan has fewer hosts, whatever the slots are."""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.planner import reduction
from harness.planner.bound import LowerBound, fewest, lower_bound
from harness.planner.cases import Case, view_cases
from harness.planner.constraints import ResolvedConstraints
from harness.planner.model import Model
from harness.planner.overhead import Overhead
from harness.planner.packed_case import PackedCase, Packer
from harness.planner.problem import Constraints
from harness.planner.reduction import Profile
from tests.planner.data_folders import HOST, Machine, write_data
from tests.planner.first_fit import first_fit
from tests.planner.test_reduction import SITE, random_machines, reduced

MODEL = Model(Overhead(guest=0.05, demand=1.1, memory_mib=30))
BASE = Case("this plan", MODEL, (HOST,), SITE)
NONE = Constraints()


def packed(profile: Profile, case: Case = BASE) -> PackedCase:
    packer = Packer(first_fit, ResolvedConstraints(NONE, ()), 1, lambda: False)
    return packer.packed(case, profile, 1)


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    machines = random_machines(40, 300)
    return reduced(write_data(tmp_path_factory.mktemp("data") / "d", machines, moments=300))


def test_the_bound_is_the_highest_sum_of_any_sample(profile: Profile) -> None:
    found = lower_bound(packed(profile), NONE)
    sums = MODEL.demand(profile).sum(axis=0, dtype=np.float64) / MODEL.usable(HOST)[:, None]
    assert found.hosts == math.ceil(sums.max())
    assert found.reason.startswith("The CPU of all machines needs so many hosts on ")


def test_after_a_failure_the_others_carry_all_to_95_percent(profile: Profile) -> None:
    for spare in (1, 2, 5):
        case = replace(BASE, model=replace(MODEL, spare=spare))
        sums = MODEL.demand(profile).sum(axis=0, dtype=np.float64)
        without, after = (
            math.ceil((sums / limit[:, None]).max())
            for limit in (MODEL.usable(HOST), MODEL.failover(HOST))
        )
        found = lower_bound(packed(profile, case), NONE)
        assert found.hosts == max(without, after + spare)
    assert found.reason == "After 5 hosts have failed, the others must carry all machines."


def test_views_have_bounds_of_their_own(profile: Profile) -> None:
    own = lower_bound(packed(profile), NONE).hosts
    bounds = [lower_bound(packed(profile, case), NONE).hosts for case in view_cases(BASE)]
    assert bounds[0] >= bounds[1] >= own  # peaks, P95


def test_large_machines_and_groups_count_also_where_slots_are_hours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six machines of 60 % of a host's memory need six hosts."""
    memory = np.full(600, 60_000.0)
    machines = [
        Machine(
            f"vm-{n}", {"cpu_cores": np.random.default_rng(n).random(600), "memory_mib": memory}
        )
        for n in range(6)
    ]
    folder = write_data(tmp_path / "data", machines, moments=600)
    monkeypatch.setattr(reduction, "_MAX_SAMPLES", 0)
    monkeypatch.setattr(reduction, "_MAX_SLOTS", 6 * 168)
    profile = reduced(folder)
    assert not profile.slots.single.all()
    assert lower_bound(packed(profile), NONE).hosts == 6
    small = [replace(one, values={**one.values, "memory_mib": memory / 9}) for one in machines]
    profile = reduced(write_data(tmp_path / "small", small, moments=600))
    assert lower_bound(packed(profile), NONE).hosts == 1
    apart = Constraints(apart=((0, 1, 2, 3),))
    assert lower_bound(packed(profile), apart) == LowerBound(
        4, "4 machines must be apart on 4 hosts."
    )


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(2, 40), most=st.sampled_from([10**6, 168]))
def test_one_more_machine_never_lowers_the_bound(seed: int, count: int, most: int) -> None:
    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        patch.setattr(reduction, "_MAX_SAMPLES", 0)
        patch.setattr(reduction, "_MAX_SLOTS", most * count)
        machines = random_machines(count, 600, seed)
        bounds = [
            lower_bound(
                packed(reduced(write_data(Path(scratch) / str(n), machines[:n], moments=600))), NONE
            ).hosts
            for n in (count - 1, count)
        ]
    assert bounds[0] <= bounds[1]


@given(
    total=st.floats(0, 500).map(lambda one: round(one, 6)),
    count=st.integers(1, 20),
    small=st.floats(1, 50),
)
def test_needed_hosts_of_two_types_are_the_fewest(total: float, count: int, small: float) -> None:
    """Of one type there are only `count`, of the other any number."""
    large = 60.0
    types = (replace(HOST, name="large", count=count), replace(HOST, name="small"))
    demand = total * (1 - 1e-6)
    least = min(
        many + max(0, math.ceil((demand - many * large) / small)) for many in range(count + 1)
    )
    assert fewest(total, types, [large, small]) == least
    assert fewest(total, types[::-1], [small, large]) == least
