"""Counters of a guest without the cost of reading them."""

from __future__ import annotations

from harness.agent.overhead import OverheadCorrectedCounters


class Cgroup:
    """A cgroup whose CPU time grows when the guest's counters are read."""

    def __init__(self) -> None:
        self.usec = 1000

    def counters(self) -> dict[str, int]:
        return {"cgroup_cpu_usec": self.usec, "cgroup_memory": 5}

    def read_guest(self) -> dict[str, int]:
        self.usec += 70
        return {"exits": 3}


def test_cost_of_reading_is_left_out() -> None:
    cgroup = Cgroup()
    counters = OverheadCorrectedCounters(cgroup.counters)
    first = counters.read(cgroup.read_guest)
    assert first == {"cgroup_cpu_usec": 1000, "cgroup_memory": 5, "exits": 3}
    assert counters.read(cgroup.read_guest) == first
    cgroup.usec += 400
    assert counters.read(cgroup.read_guest)["cgroup_cpu_usec"] == 1400
    assert cgroup.usec == 1000 + 400 + 3 * 70


def test_counters_without_a_cgroup() -> None:
    assert OverheadCorrectedCounters(dict).read(lambda: {"exits": 3}) == {"exits": 3}
