"""Cgroups of guests and of killed supervisors, with plain directories as cgroups."""

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
    monkeypatch.setattr(cgroup, "_mount_point", lambda: str(tmp_path))
    monkeypatch.setattr(cgroup, "_REMOVE_ATTEMPTS", 3)
    return tmp_path


def test_directory_has_the_process_id_as_its_name(mount: Path) -> None:
    cgroups = Cgroups()
    (own,) = (mount / "pytest-hypervisor").iterdir()
    assert cgroups.root == str(own)
    pid, _, started = own.name.partition("-")
    assert (int(pid), started) == (os.getpid(), start_time(os.getpid()))
    cgroups.close()
    assert list(mount.iterdir()) == []


def test_only_cgroups_of_ended_supervisors_are_removed(mount: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    own = f"{os.getpid()}-{start_time(os.getpid())}"
    parent = mount / "pytest-hypervisor"
    remaining = {own, "notes", "x-1", "file", f"{ended.pid}"}
    stale = {f"{ended.pid}-123", f"{os.getpid()}-1", "4194999-5"}
    for name in (remaining | stale) - {"file"}:
        (parent / name / "guest").mkdir(parents=True)
    (parent / "file").touch()
    cgroup._remove_stale(str(parent))
    assert {path.name for path in parent.iterdir()} == remaining
    assert (parent / own / "guest").exists()


def test_cgroup_that_cannot_be_removed_is_skipped(mount: Path) -> None:
    parent = mount / "pytest-hypervisor"
    (parent / "4194999-5" / "guest" / "deeper").mkdir(parents=True)
    (parent / "4194998-5" / "guest").mkdir(parents=True)
    cgroups = Cgroups()
    assert cgroups.root is not None
    assert {path.name for path in parent.iterdir()} == {"4194999-5", Path(cgroups.root).name}


def test_cgroup_is_created_and_removed(mount: Path) -> None:
    cgroups = Cgroups()
    path = cgroups.enter("g", {}).path
    assert path == f"{cgroups.root}/g"
    assert Path(path, "cgroup.procs").read_text() == "0"
    assert cgroups.enter("g", {}).path == ""  # it exists already
    Path(path, "cgroup.procs").unlink()
    cgroups.remove("g")
    cgroups.remove("g")
    assert not Path(path).exists()


def cgroup_with(folder: Path, *files: str) -> Cgroup:
    for name in files:
        (folder / name).write_text("")
    return Cgroup(str(folder))


def test_limits_are_written_to_the_kernels_files(tmp_path: Path) -> None:
    files = ("cpu.max", "cpuset.cpus", "memory.max", "memory.swap.max", "memory.oom.group")
    guest_cgroup = cgroup_with(tmp_path, *files)
    guest_cgroup.limit({"cpu": 0.5, "cpus": [0, 2], "memory": 96})
    contents = [(tmp_path / name).read_text() for name in files]
    assert contents == ["50000 100000", "0,2", str(96 << 20), "0", "1"]
    guest_cgroup.limit({"cpu": 0, "cpus": [], "memory": 0})
    assert [(tmp_path / name).read_text() for name in files] == contents


@pytest.mark.parametrize(
    ("limits", "cause"),
    [
        ({"cpu": 0.5}, r"cpu.max cannot be set: .* no cgroup controller 'cpu'"),
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
def test_impossible_limits_are_refused(
    tmp_path: Path, limits: dict[str, Any], cause: str | None
) -> None:
    guest_cgroup = Cgroup(str(tmp_path))
    if cause is None:
        guest_cgroup.limit(limits)
        return
    with pytest.raises(ConfigError, match=cause) as error:
        guest_cgroup.limit(limits)
    assert error.value.hint
    assert list(tmp_path.iterdir()) == []


def test_counters_are_read_anew_each_time(tmp_path: Path) -> None:
    (tmp_path / "cpu.stat").write_text("usage_usec 5000\nuser_usec 3000\n")
    (tmp_path / "memory.current").write_text("4096\n")
    (tmp_path / "memory.events").write_text("low 0\noom 2\noom_kill 1\n")
    guest_cgroup = Cgroup(str(tmp_path))
    assert guest_cgroup.counters() == {
        "cgroup_cpu_usec": 5000,
        "cgroup_memory": 4096,
        "cgroup_oom_kills": 1,
    }
    (tmp_path / "memory.current").write_text("8192\n")
    assert guest_cgroup.counters()["cgroup_memory"] == 8192


def test_memory_kill_is_detected(mount: Path) -> None:
    cgroups = Cgroups()
    path = Path(cgroups.enter("g", {}).path)
    assert not cgroups.killed_for_memory("g")
    (path / "memory.events").write_text("oom 1\noom_kill 0\n")
    assert not cgroups.killed_for_memory("g")
    (path / "memory.events").write_text("oom 1\noom_kill 1\n")
    assert cgroups.killed_for_memory("g")
    assert not cgroups.killed_for_memory("other")


def test_existing_controllers_are_enabled(mount: Path) -> None:
    (mount / "cgroup.subtree_control").write_text("")
    cgroups = Cgroups()
    # a plain file keeps only the last write
    assert (mount / "cgroup.subtree_control").read_text() == "+memory"
    assert cgroups.root is not None


def test_no_cgroup_without_a_mount_or_permission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for path in (None, str(tmp_path / "file")):
        monkeypatch.setattr(cgroup, "_mount_point", lambda path=path: path)
        cgroups = Cgroups()
        assert cgroups.root is None
        assert cgroups.enter("g", {}).path == ""
        assert cgroups.enter("g", {}).counters() == {}
        cgroups.remove("g")
        cgroups.close()


@pytest.mark.parametrize("name", ["../up", "a\0b", "\ud800"])
def test_names_that_are_no_directory_are_ignored(mount: Path, name: str) -> None:
    cgroups = Cgroups()
    cgroups.remove(name)
    cgroups.close()
    assert mount.exists()
