"""Cgroups of guests and what a killed supervisor left of them; plain directories play cgroups."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness.agent import cgroup
from harness.agent.cgroup import Cgroup, Cgroups
from harness.agent.process import start_time
from harness.kvm.errors import ConfigError


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cgroup, "_mount", lambda: str(tmp_path))
    monkeypatch.setattr(cgroup, "_TRIES", 3)
    return tmp_path


def test_own_directory_says_whose_it_is(mount: Path) -> None:
    made = Cgroups()
    (own,) = (mount / "pytest-hypervisor").iterdir()
    assert made.root == str(own)
    pid, _, started = own.name.partition("-")
    assert (int(pid), started) == (os.getpid(), start_time(os.getpid()))
    made.close()
    assert list(mount.iterdir()) == []


def test_the_sweep_takes_what_the_dead_left_and_nothing_else(mount: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    mine = f"{os.getpid()}-{start_time(os.getpid())}"
    parent = mount / "pytest-hypervisor"
    kept = {mine, "notes", "x-1", "file"}
    swept = {f"{ended.pid}-123", f"{os.getpid()}-1", f"{os.getpid()}", "4194999-5"}
    for name in (kept | swept) - {"file"}:
        (parent / name / "guest").mkdir(parents=True)
    (parent / "file").touch()
    cgroup._sweep(str(parent))
    assert {path.name for path in parent.iterdir()} == kept
    assert (parent / mine / "guest").exists()


def test_what_cannot_be_removed_does_not_stop_the_sweep(mount: Path) -> None:
    parent = mount / "pytest-hypervisor"
    (parent / "4194999-5" / "guest" / "deeper").mkdir(parents=True)
    (parent / "4194998-5" / "guest").mkdir(parents=True)
    made = Cgroups()
    assert made.root is not None
    assert {path.name for path in parent.iterdir()} == {"4194999-5", Path(made.root).name}


def test_a_guests_cgroup_comes_and_goes(mount: Path) -> None:
    made = Cgroups()
    path = made.enter("g", {}).path
    assert path == f"{made.root}/g"
    assert Path(path, "cgroup.procs").read_text() == "0"
    assert made.enter("g", {}).path == ""  # there already
    Path(path, "cgroup.procs").unlink()
    made.remove("g")
    made.remove("g")
    assert not Path(path).exists()


def a_cgroup(folder: Path, *files: str) -> Cgroup:
    for name in files:
        (folder / name).write_text("")
    return Cgroup(str(folder))


def test_limits_are_the_kernels_files(tmp_path: Path) -> None:
    files = ("cpu.max", "cpuset.cpus", "memory.max", "memory.swap.max", "memory.oom.group")
    made = a_cgroup(tmp_path, *files)
    made.limit({"cpu": 0.5, "cpus": [0, 2], "memory": 96})
    said = [(tmp_path / name).read_text() for name in files]
    assert said == ["50000 100000", "0,2", str(96 << 20), "0", "1"]
    made.limit({"cpu": 0, "cpus": [], "memory": 0})
    assert [(tmp_path / name).read_text() for name in files] == said


@pytest.mark.parametrize(
    ("limits", "cause"),
    [
        ({"cpu": 0.5}, r"no limit by cpu.max: .* no cgroup controller 'cpu'"),
        ({"cpus": [0]}, "'cpuset'"),
        ({"memory": 96}, "'memory'"),
        ({"disk": 1}, "unknown limits"),
        ({"cpus": 1}, "limits"),
        ({"cpus": ["x"]}, "limits"),
        ({"memory": "x"}, "limits"),
        ({"cpu": float("inf")}, "limits"),
        ({"cpu": []}, None),
    ],
)
def test_limits_that_cannot_be_had_are_refused(
    tmp_path: Path, limits: dict[str, Any], cause: str | None
) -> None:
    made = Cgroup(str(tmp_path))
    if cause is None:
        made.limit(limits)
        return
    with pytest.raises(ConfigError, match=cause) as refused:
        made.limit(limits)
    assert refused.value.hint
    assert list(tmp_path.iterdir()) == []


def test_costs_are_read_again_each_time(tmp_path: Path) -> None:
    (tmp_path / "cpu.stat").write_text("usage_usec 5000\nuser_usec 3000\n")
    (tmp_path / "memory.current").write_text("4096\n")
    (tmp_path / "memory.events").write_text("low 0\noom 2\noom_kill 1\n")
    made = Cgroup(str(tmp_path))
    assert made.counters() == {
        "cgroup_cpu_usec": 5000,
        "cgroup_memory": 4096,
        "cgroup_oom_kills": 1,
    }
    (tmp_path / "memory.current").write_text("8192\n")
    assert made.counters()["cgroup_memory"] == 8192


def test_who_was_killed_for_its_memory_is_known(mount: Path) -> None:
    made = Cgroups()
    path = Path(made.enter("g", {}).path)
    assert not made.killed_for_memory("g")
    (path / "memory.events").write_text("oom 1\noom_kill 0\n")
    assert not made.killed_for_memory("g")
    (path / "memory.events").write_text("oom 1\noom_kill 1\n")
    assert made.killed_for_memory("g")
    assert not made.killed_for_memory("other")


def test_controllers_are_handed_on_where_there_are_any(mount: Path) -> None:
    (mount / "cgroup.subtree_control").write_text("")
    made = Cgroups()
    # the last one written stays in what is no kernel's file
    assert (mount / "cgroup.subtree_control").read_text() == "+memory"
    assert made.root is not None


def test_without_a_mount_or_rights_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for place in (None, str(tmp_path / "file")):
        monkeypatch.setattr(cgroup, "_mount", lambda place=place: place)
        made = Cgroups()
        assert made.root is None
        assert made.enter("g", {}).path == ""
        assert made.enter("g", {}).counters() == {}
        made.remove("g")
        made.close()


@pytest.mark.parametrize("name", ["../up", "a\0b", "\ud800"])
def test_names_that_are_no_directory_are_harmless(mount: Path, name: str) -> None:
    made = Cgroups()
    made.remove(name)
    made.close()
    assert mount.exists()
