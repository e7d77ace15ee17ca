"""Cgroups of guests and what a killed supervisor left of them; plain directories play cgroups."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from harness.vmm import cgroup
from harness.vmm.cgroup import Cgroups


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
    assert (int(pid), started) == (os.getpid(), cgroup._start_time(os.getpid()))
    made.close()
    assert list(mount.iterdir()) == []


def test_the_sweep_takes_what_the_dead_left_and_nothing_else(mount: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    mine = f"{os.getpid()}-{cgroup._start_time(os.getpid())}"
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
    path = made.enter("g")
    assert path is not None
    assert path == f"{made.root}/g"
    assert Path(path, "cgroup.procs").read_text() == "0"
    assert made.enter("g") is None  # there already
    Path(path, "cgroup.procs").unlink()
    made.remove("g")
    made.remove("g")
    assert not Path(path).exists()


def test_without_a_mount_or_rights_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for place in (None, str(tmp_path / "file")):
        monkeypatch.setattr(cgroup, "_mount", lambda place=place: place)
        made = Cgroups()
        assert made.root is None
        assert made.enter("g") is None
        made.remove("g")
        made.close()


@pytest.mark.parametrize("name", ["../up", "a\0b", "\ud800"])
def test_names_that_are_no_directory_are_harmless(mount: Path, name: str) -> None:
    made = Cgroups()
    made.remove(name)
    made.close()
    assert mount.exists()
