"""Contradictions are errors that name the smallest conflict and say what to do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from harness.errors import PlanError
from harness.planner.packing import solve
from harness.planner.problem import Constraints, Problem, Shape
from tests.planner.packing_problems import host_type, problem_of

HOST = host_type("h", 10, 100)
OLD = host_type("old", 10, count=2, names=["a", "b"], racks=["r", "r"])


def three(shape: Shape = HOST, **constraints: object) -> Problem:
    return problem_of([[4, 1]] * 3, shape, Constraints(**constraints))  # type: ignore[arg-type]


CASES = {
    "larger than any host": (
        problem_of([[1], [12]], HOST),
        "'vm1' is too large for any host: 12 cores of cpu are needed, and a host of type 'h' has",
    ),
    "together larger than any host": (
        problem_of([[1], [6], [5], [1]], HOST, Constraints(together=((0, 1, 2, 3),))),
        "'vm1' and 'vm2' must be together on one host: 11 cores of cpu are needed",
    ),
    "pin on an unknown host": (
        three(pins={1: "zeus"}),
        "'vm1' must run on host 'zeus', which does not exist",
    ),
    "pins are too large together": (
        three(OLD, pins={0: "a", 1: "a", 2: "a"}),
        "'vm0', 'vm1' and 'vm2' must run on host 'a', but 12 cores of cpu are needed",
    ),
    "apart and pinned together": (
        three(OLD, pins={0: "b", 2: "b"}, apart=((0, 2),)),
        "'vm0' and 'vm2' are pinned to host 'b', but no more than 1 of them may share a host",
    ),
    "together and apart": (
        three(together=((0, 1), (1, 2)), apart=((0, 2),)),
        "'vm0' and 'vm2' must be together, and apart",
    ),
    "together and in conflict": (
        three(together=((0, 1),), conflicts=((1, 0),)),
        "'vm0' and 'vm1' must be together, and in conflict",
    ),
    "together and pinned apart": (
        three(OLD, together=((0, 1),), pins={0: "a", 1: "b"}),
        "'vm0' and 'vm1' must be together, but are pinned to 'a' and 'b'",
    ),
    "together and spread": (
        three(together=((0, 1),), spread=((0, 1),)),
        "'vm0' and 'vm1' must be together, but no more than 1 of their group may share a rack",
    ),
    "more apart than hosts": (
        three(OLD, apart=((0, 1, 2),)),
        "A group of 3 machines must be apart, but there are 2 hosts",
    ),
    "spread over one rack": (
        three(OLD, spread=((0, 2),)),
        "'vm0' and 'vm2' must be spread over racks, but all hosts are in one",
    ),
    "in conflict with itself": (
        three(conflicts=((1, 1),)),
        "'vm1' must not share a host with itself",
    ),
    "more than the hosts hold": (
        problem_of([[4]] * 6, OLD),
        "6 machines do not fit on 2 hosts. The machines together need the cpu of 2.40 hosts",
    ),
    "more than any packing of the hosts holds": (
        problem_of([[6], [6], [6]], host_type("old", 10, count=2)),
        "3 machines do not fit on 2 hosts",
    ),
    "nowhere to go after a failure": (
        problem_of([[4]] * 4, OLD, spare=1),
        "If a fails, 2 machines cannot run on the other hosts: 'vm0', 'vm1'",
    ),
    "an unknown machine": (
        three(apart=((0, 3),)),
        "A constraint names machine number 3 of 3",
    ),
    "no hosts": (replace(three(), shapes=()), "No type of host is given"),
    "names without a count": (
        three(replace(HOST, names=("a",))),
        "The host type 'h' has names or racks, but no number of hosts",
    ),
    "two hosts of one name": (
        three(replace(OLD, names=("a", "a"))),
        "Two hosts have the name 'a'",
    ),
    "more names than hosts": (
        three(replace(OLD, count=1)),
        "The host type 'old' has 1 hosts, but more names or racks",
    ),
    "an empty rack": (
        three(replace(HOST, per_rack=0)),
        "The host type 'h' has 0 hosts in a rack",
    ),
    "nothing left on a host": (
        three(host_type("h", -1)),
        "The host type 'h' has no cpu left for machines",
    ),
    "a negative cost": (
        three(replace(HOST, cost=-1)),
        "The host type 'h' has a wrong capacity or cost",
    ),
    "a demand that is not a number": (
        problem_of([[1, 2], [1, np.nan]], HOST),
        "The cpu of 'vm1' is negative or not a number",
    ),
    "a demand of the wrong shape": (
        replace(three(), machines=["vm0"]),
        "The demand of 1 machines has the shape (3, 4, 2)",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_contradiction_is_named(name: str) -> None:
    problem, cause = CASES[name]
    with pytest.raises(PlanError) as caught:
        solve(problem, seconds=5)
    assert caught.value.cause.startswith(cause)
    assert not caught.value.cause.endswith(".")


def test_a_conflict_of_many_names_only_some() -> None:
    problem = problem_of([[1]] * 12, host_type("h", 9), Constraints(together=(tuple(range(12)),)))
    with pytest.raises(PlanError, match=r"'vm2', 'vm3', .* and 5 more must be together") as caught:
        solve(problem, seconds=5)
    assert "10 cores of cpu are needed" in caught.value.cause


def test_racks_that_cannot_be_chosen_are_an_error() -> None:
    # three racks, but the group of two must not be on the two hosts in the same rack
    hosts = host_type("old", 10, count=3, names=["a", "b", "c"], racks=["x", "x", "y"])
    constraints = Constraints(spread=((0, 1),), pins={0: "a", 1: "b"})
    with pytest.raises(PlanError, match="may share a rack"):
        solve(problem_of([[4]] * 2, hosts, constraints), seconds=5)
