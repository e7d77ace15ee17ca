"""N+k: after each failure all machines run on the other hosts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.planner.failures import check_failures
from harness.planner.packing import solve
from harness.planner.problem import Constraints, PackedHost, Packing, Problem
from tests.planner.packing_problems import host_type, problem_of, problems, violations


def packed(*hosts: tuple[str, tuple[int, ...]]) -> tuple[PackedHost, ...]:
    return tuple(
        PackedHost(f"h-{k + 1}", 0, rack, machines) for k, (rack, machines) in enumerate(hosts)
    )


def test_a_failed_host_s_machines_are_packed_on_the_others() -> None:
    problem = problem_of([[4], [4], [3], [2]], host_type("h", 8, failover=[10]), spare=1)
    failures = check_failures(problem, packed(("r", (0, 1)), ("r", (2,)), ("r", (3,))))
    assert [(one.failed, one.machines, one.unplaced) for one in failures] == [
        ("h-1", 2, ()),
        ("h-2", 1, ()),
        ("h-3", 1, ()),
    ]
    assert np.isclose(failures[0].worst_peak, 0.7)


def test_the_usable_capacity_does_not_limit_the_failover() -> None:
    hosts = packed(("r", (0,)), ("r", (1,)))
    for failover, lost in ((8.0, ("vm0",)), (9.0, ())):
        problem = problem_of([[4], [5]], host_type("h", 6, failover=[failover]), spare=1)
        assert check_failures(problem, hosts)[0].unplaced == lost


def test_each_moment_counts_after_a_failure() -> None:
    problem = problem_of([[6, 1], [1, 6], [6, 1]], host_type("h", 10), spare=1)
    failures = check_failures(problem, packed(("r", (0,)), ("r", (1,)), ("r", (2,))))
    assert [one.unplaced for one in failures] == [(), (), ()]
    assert np.isclose(failures[0].worst_peak, 0.7)


def test_apart_and_together_hold_after_a_failure() -> None:
    hosts = packed(("r", (0, 1)), ("r", (2,)), ("r", (3,)))
    shape = host_type("h", 10)
    alone = problem_of([[4], [4], [4], [7]], shape, Constraints(apart=((0, 2),)), spare=1)
    assert check_failures(alone, hosts)[0].unplaced == ("vm0",)
    both = problem_of([[3], [3], [6], [6]], shape, Constraints(together=((0, 1),)), spare=1)
    assert check_failures(both, hosts)[0].unplaced == ("vm0", "vm1")


def test_a_pinned_machine_fails_with_its_host() -> None:
    shape = host_type("h", 10, count=2, names=["h-1", "h-2"])
    problem = problem_of([[1], [1]], shape, Constraints(pins={0: "h-1"}), spare=1)
    failures = check_failures(problem, packed(("r", (0,)), ("r", (1,))))
    assert [one.unplaced for one in failures] == [("vm0",), ()]


def test_racks_fail_as_a_whole() -> None:
    problem = problem_of([[5]] * 4, host_type("h", 5, failover=[10]), spare_racks=1)
    failures = check_failures(problem, packed(("x", (0,)), ("x", (1,)), ("y", (2,)), ("z", (3,))))
    assert [(one.failed, one.machines) for one in failures] == [
        ("rack x", 2),
        ("rack y", 1),
        ("rack z", 1),
    ]
    assert [one.unplaced for one in failures] == [(), (), ()]


def test_pairs_of_hosts_fail_at_once() -> None:
    problem = problem_of([[5]] * 4, host_type("h", 5, failover=[10]), spare=2)
    hosts = packed(("r", (0,)), ("r", (1,)), ("r", (2,)), ("r", (3,)))
    failures = check_failures(problem, hosts)
    assert len(failures) == 6
    assert all(one.unplaced == () for one in failures)
    assert failures[0].failed == "h-1 + h-2"


def test_a_failure_of_everything_leaves_nothing() -> None:
    problem = problem_of([[5]], host_type("h", 5), spare=1)
    (failure,) = check_failures(problem, packed(("r", (0,))))
    assert failure.unplaced == ("vm0",)
    assert failure.worst_peak == 0


def test_full_hosts_get_a_spare_one() -> None:
    problem = problem_of([[5]] * 8, host_type("h", 10), spare=1)
    packing = solve(problem, seconds=20)
    assert (len(packing.hosts), packing.bound, packing.status) == (5, 5, "optimal")
    assert "failure" in packing.bound_reason


def test_room_for_failures_needs_no_spare_host() -> None:
    problem = problem_of([[2.5]] * 8, host_type("h", 5, failover=[10]), spare=1)
    assert len(solve(problem, seconds=20).hosts) == 4


def test_a_rack_of_spare_hosts_is_added() -> None:
    problem = problem_of([[5]] * 8, host_type("h", 5, per_rack=2), spare_racks=1)
    packing = solve(problem, seconds=20)
    assert len(packing.hosts) == 10
    assert all(one.unplaced == () for one in check_failures(problem, packing.hosts))


def test_spare_hosts_stand_in_another_rack() -> None:
    problem = problem_of([[5]] * 3, host_type("h", 5, per_rack=20), spare_racks=1)
    packing = solve(problem, seconds=20)
    assert sorted(host.rack for host in packing.hosts) == ["h-rack-1"] * 3 + ["h-rack-2"] * 3
    assert all(one.unplaced == () for one in check_failures(problem, packing.hosts))


def moved_after(problem: Problem, packing: Packing, failed: int) -> bool:
    """Whether a search places the machines of a failed host, with the others where they are.

    A second implementation: depth-first over all machines and hosts.
    """
    shapes = [problem.shapes[host.shape] for host in packing.hosts]
    loads = [problem.demand[list(host.machines)].sum(axis=0) for host in packing.hosts]
    waiting = list(packing.hosts[failed].machines)

    def place(rest: list[int]) -> bool:
        if not rest:
            return True
        for host, shape in enumerate(shapes):
            load = loads[host] + problem.demand[rest[0]]
            if host != failed and (load <= shape.failover[:, None] * (1 + 1e-6)).all():
                before, loads[host] = loads[host], load
                if place(rest[1:]):
                    return True
                loads[host] = before
        return False

    return place(waiting)


@settings(max_examples=40, deadline=None)
@given(problems(most=9, constrained=False), st.sampled_from([1.0, 1.3, 2.0]))
def test_all_failures_are_survived(problem: Problem, more: float) -> None:
    shapes = tuple(
        replace(one, failover=one.usable * np.float32(more)) for one in problem.shapes[:1]
    )
    problem = replace(problem, shapes=shapes, spare=1)
    packing = solve(problem, seconds=20)
    assert violations(problem, packing) == []
    assert packing.bound <= len(packing.hosts)
    for number, failure in enumerate(check_failures(problem, packing.hosts)):
        assert failure.unplaced == ()
        assert failure.worst_peak <= 1 + 1e-6
        assert moved_after(problem, packing, number)
