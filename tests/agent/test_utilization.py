"""The utilization of guests, with plain files as their cgroups."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.agent.control import MessageWriter
from harness.agent.guest_processes import Child
from harness.agent.supervisor import Supervisor
from harness.agent.utilization import GuestUtilization, Utilization

SOME = "some avg10=0.00 avg60=0.00 avg300=0.00 total={}\n"
FULL = "full avg10=9.00 avg60=9.00 avg300=9.00 total=999999999\n"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A list whose only item is the current time."""
    now = [100.0]
    monkeypatch.setattr("harness.agent.utilization.time.monotonic", lambda: now[0])
    return now


def spend(cgroup: Path, user: int, system: int, waited: int, memory: int) -> None:
    """Write a cgroup's files. user, system, waited: us. memory: MiB."""
    cgroup.mkdir(exist_ok=True)
    (cgroup / "cpu.stat").write_text(
        f"usage_usec {user + system}\nuser_usec {user}\nsystem_usec {system}\nnr_periods 0\n"
    )
    for name in ("cpu", "memory", "io"):
        (cgroup / f"{name}.pressure").write_text(SOME.format(waited) + FULL)
    (cgroup / "memory.current").write_text(f"{memory << 20}\n")


def test_sample_covers_the_time_since_the_last_one(tmp_path: Path, clock: list[float]) -> None:
    cgroup = tmp_path / "g"
    utilization = GuestUtilization(str(cgroup))
    clock[0] += 2
    spend(cgroup, user=1_000_000, system=500_000, waited=200_000, memory=64)
    assert utilization.sample() == pytest.approx(  # the first sample starts at the creation
        {
            **{"cpu.user": 50, "cpu.system": 25, "memory.used": 64},
            **dict.fromkeys(("pressure.cpu", "pressure.memory", "pressure.io"), 10),
        }
    )
    clock[0] += 1
    spend(cgroup, user=3_000_000, system=500_000, waited=200_000, memory=32)
    sample = utilization.sample()
    assert sample["cpu.user"] == pytest.approx(200), "percent of one CPU; the guest has two"
    assert (sample["cpu.system"], sample["pressure.cpu"], sample["memory.used"]) == (0, 0, 32)


def test_missing_files_are_left_out(tmp_path: Path, clock: list[float]) -> None:
    spend(tmp_path, user=1, system=1, waited=1, memory=1)
    for name in ("cpu.pressure", "memory.pressure", "io.pressure", "memory.current"):
        (tmp_path / name).unlink()
    utilization = GuestUtilization(str(tmp_path))
    clock[0] += 1
    assert set(utilization.sample()) == {"cpu.user", "cpu.system"}


class RecordingWriter(MessageWriter):
    """Keeps the messages of a supervisor."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def send(self, message: dict[str, Any]) -> None:
        self.messages.append(message)


def test_report_has_running_guests_with_a_cgroup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Utilization, "sample", lambda self: {"cpu.idle": 100.0})
    output = RecordingWriter()
    supervisor = Supervisor(output)
    children = supervisor.guests._children
    for name in ("a", "b", "early"):
        folder = str(tmp_path / name)
        children[name] = Child(name, 0, None, folder, -1)  # type: ignore[arg-type]
    children["bare"] = Child("bare", 0, None, "", -1)  # type: ignore[arg-type]
    for name in ("a", "b"):
        spend(tmp_path / name, user=10, system=10, waited=0, memory=7)
    supervisor.report_utilization()
    shutil.rmtree(tmp_path / "a")  # the supervisor does not know its end yet
    supervisor.report_utilization()
    children.clear()
    supervisor.guests.close()
    first, second = (message["guests"] for message in output.messages)
    assert (set(first), set(second)) == ({"a", "b"}, {"b"})
    assert first["b"]["memory.used"] == 7
    assert [message["values"] for message in output.messages] == [
        {"cpu.idle": 100.0, "memory.quarantined": 0}
    ] * 2
