"""What a guest takes of its host, by its cgroup; plain files play the kernel's."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.agent.memory_quarantine import MemoryQuarantine
from harness.agent.supervisor import Child, Supervisor
from harness.agent.utilization import GuestUtilization, Utilization

SOME = "some avg10=0.00 avg60=0.00 avg300=0.00 total={}\n"
FULL = "full avg10=9.00 avg60=9.00 avg300=9.00 total=999999999\n"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The only entry is the time."""
    now = [100.0]
    monkeypatch.setattr("harness.agent.utilization.time.monotonic", lambda: now[0])
    return now


def spend(cgroup: Path, user: int, system: int, waited: int, memory: int) -> None:
    """Microseconds, and MiB."""
    cgroup.mkdir(exist_ok=True)
    (cgroup / "cpu.stat").write_text(
        f"usage_usec {user + system}\nuser_usec {user}\nsystem_usec {system}\nnr_periods 0\n"
    )
    for name in ("cpu", "memory", "io"):
        (cgroup / f"{name}.pressure").write_text(SOME.format(waited) + FULL)
    (cgroup / "memory.current").write_text(f"{memory << 20}\n")


def test_a_guests_use_is_that_since_the_call_before(tmp_path: Path, clock: list[float]) -> None:
    cgroup = tmp_path / "g"
    made = GuestUtilization(str(cgroup))
    clock[0] += 2
    spend(cgroup, user=1_000_000, system=500_000, waited=200_000, memory=64)
    assert made.sample() == pytest.approx(  # the first: since it was made
        {
            **{"cpu.user": 50, "cpu.system": 25, "memory.used": 64},
            **dict.fromkeys(("pressure.cpu", "pressure.memory", "pressure.io"), 10),
        }
    )
    clock[0] += 1
    spend(cgroup, user=3_000_000, system=500_000, waited=200_000, memory=32)
    found = made.sample()
    assert found["cpu.user"] == pytest.approx(200), "of one CPU: it has two"
    assert (found["cpu.system"], found["pressure.cpu"], found["memory.used"]) == (0, 0, 32)


def test_what_the_kernel_does_not_have_is_left_out(tmp_path: Path, clock: list[float]) -> None:
    spend(tmp_path, user=1, system=1, waited=1, memory=1)
    for name in ("cpu.pressure", "memory.pressure", "io.pressure", "memory.current"):
        (tmp_path / name).unlink()
    made = GuestUtilization(str(tmp_path))
    clock[0] += 1
    assert set(made.sample()) == {"cpu.user", "cpu.system"}


class Told(Supervisor):
    """Keeps what it would say."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self._children = {}
        self._retired = MemoryQuarantine()
        self._utilization = Utilization()

    def _send(self, message: dict[str, Any]) -> None:
        self.told.append(message)


def test_a_tick_tells_of_living_guests_with_a_cgroup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Utilization, "sample", lambda self: {"cpu.idle": 100.0})
    made = Told()
    for name in ("a", "b", "early"):
        folder = str(tmp_path / name)
        made._children[name] = Child(name, 0, None, folder, -1)  # type: ignore[arg-type]
    made._children["bare"] = Child("bare", 0, None, "", -1)  # type: ignore[arg-type]
    for name in ("a", "b"):
        spend(tmp_path / name, user=10, system=10, waited=0, memory=7)
    made._tick()
    shutil.rmtree(tmp_path / "a")  # its end is not known yet
    made._tick()
    first, second = (message["guests"] for message in made.told)
    assert (set(first), set(second)) == ({"a", "b"}, {"b"})
    assert first["b"]["memory.used"] == 7
    assert [message["values"] for message in made.told] == [
        {"cpu.idle": 100.0, "memory.quarantined": 0}
    ] * 2
