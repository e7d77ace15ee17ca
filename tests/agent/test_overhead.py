"""What a guest costs, without what asking it costs."""

from __future__ import annotations

from harness.agent.overhead import OverheadCorrectedCounters


class Cgroup:
    """Whose CPU time grows by what a test says."""

    def __init__(self) -> None:
        self.usec = 1000

    def costs(self) -> dict[str, int]:
        return {"cgroup_cpu_usec": self.usec, "cgroup_memory": 5}

    def tell(self) -> dict[str, int]:
        self.usec += 70
        return {"exits": 3}


def test_what_asking_takes_is_left_out() -> None:
    cgroup = Cgroup()
    aside = OverheadCorrectedCounters(cgroup.costs)
    first = aside.during(cgroup.tell)
    assert first == {"cgroup_cpu_usec": 1000, "cgroup_memory": 5, "exits": 3}
    assert aside.during(cgroup.tell) == first
    cgroup.usec += 400
    assert aside.during(cgroup.tell)["cgroup_cpu_usec"] == 1400
    assert cgroup.usec == 1000 + 400 + 3 * 70


def test_without_a_cgroup() -> None:
    assert OverheadCorrectedCounters(dict).during(lambda: {"exits": 3}) == {"exits": 3}
