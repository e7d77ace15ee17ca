"""The utilization of guests becomes samples with the guests' labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.guest.factory import guest_name, parse_guest_name
from harness.results.store import load
from tests.plugin.conftest import Run

SOURCE = """
    def test_it(guest_factory, hypervisor, record_sample):
        guests = [guest_factory(label) for label in ("Web 1", "Web 1", "")]
        used = {"cpu.user": 80.0, "memory.used": 96.0, "pressure.io": 1.5}
        hypervisor.tick(0, {"cpu.user": 3.0}, {guest.name: used for guest in guests})
        hypervisor.tick(0, {"cpu.user": 4.0}, {guests[0].name: used})
"""


@pytest.mark.parametrize("twice", [False, True])
def test_samples_of_guests_carry_label_and_number(run: Run, twice: bool) -> None:
    more = ["--hypervisor=processes"] if twice else []
    result = run(SOURCE, "--virt-no-report", *more)
    result.assert_outcomes(passed=1 + twice)
    _, frame = load(Path(result.outlines[-1].partition(": ")[2]))
    names = ["processes", "processes-2"] if twice else ["processes"]
    for name in names:
        mine = frame[(frame.metric == "guest.cpu.user") & (frame.hypervisor == name)]
        labels = [json.loads(parameters) for parameters in mine.parameters]
        assert labels == [{"guest": label} for label in ("web-1", "web-1", "", "web-1")]
        assert list(mine.boot) == [0, 1, 2, 0]
        assert list(mine.batch) == [1, 1, 1, 2], "the first tick was of the host alone"
        assert set(mine.value) == {80.0}
        assert set(mine.unit) == {"%"}
        assert set(mine.better) == {"none"}
        assert set(mine.test) == set(mine.suite) == {""}
    memory = frame[frame.metric == "guest.memory.used"]
    assert set(memory.unit) == {"MiB"}
    # one hypervisor reports the utilization of the host
    host = frame[frame.metric == "host.cpu.user"]
    assert list(host.value) == [12.5, 3.0, 4.0]


def test_quarantined_memory_does_not_count_as_used(run: Run) -> None:
    source = """
        hypervisors = {}
        def test_it(hypervisor, record_sample):
            hypervisors[hypervisor.name] = hypervisor
            if len(hypervisors) == 2:
                first, second = hypervisors["processes"], hypervisors["processes-2"]
                second.tick(0, {"memory.used": 900.0, "memory.quarantined": 200.0})
                first.tick(0, {"memory.used": 900.0, "memory.quarantined": 100.0})
    """
    result = run(source, "--virt-no-report", "--hypervisor=processes")
    result.assert_outcomes(passed=2)
    _, frame = load(Path(result.outlines[-1].partition(": ")[2]))
    assert list(frame[frame.metric == "host.memory.used"].value) == [512, 600]
    assert "host.memory.quarantined" not in set(frame.metric)


@pytest.mark.parametrize("prefix", ["1a-main", "1a-main-kvm-2", "1a-main-payload", "1a-gw0"])
@pytest.mark.parametrize(("number", "label"), [(0, ""), (12, "web-3"), (3, "4")])
def test_guest_name_is_parsed(prefix: str, number: int, label: str) -> None:
    name = guest_name(prefix, number, label)
    own = prefix[:7] if prefix.startswith("1a-main") else prefix
    assert parse_guest_name(name, own, "kvm-2", "payload") == (number, label)


def test_foreign_name_is_a_label() -> None:
    assert parse_guest_name("stranger-1", "1a-main", "kvm") == (0, "stranger-1")
