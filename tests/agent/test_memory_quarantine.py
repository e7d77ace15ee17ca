"""The quarantine of ended guests' memory files."""

from __future__ import annotations

import os

import pytest

from harness.agent import memory_quarantine
from harness.agent.memory_quarantine import MemoryQuarantine
from harness.agent.utilization import memory_available
from harness.vmm.memory import create_memory_file

MIB = 1 << 20


def written_file(mib: int = 1) -> int:
    """A memory file with written pages."""
    file = create_memory_file()
    os.pwrite(file, b"\1" * mib * MIB, 0)
    return file


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_disabled_quarantine_closes_files() -> None:
    quarantine, file = MemoryQuarantine(), written_file()
    quarantine.add(file)
    assert not is_open(file)
    assert quarantine.size_mib == 0


def test_empty_files_are_closed() -> None:
    quarantine, empty, file = MemoryQuarantine(), create_memory_file(), written_file(3)
    quarantine.enabled = True
    quarantine.add(empty)
    quarantine.add(file)
    assert (is_open(empty), is_open(file)) == (False, True)
    assert quarantine.size_mib == 3
    quarantine.close()
    assert not is_open(file)
    assert quarantine.size_mib == 0


def test_oldest_files_are_freed_when_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    quarantine, files = MemoryQuarantine(), [written_file() for _ in range(4)]
    quarantine.enabled = True
    for file in files:
        quarantine.add(file)
    monkeypatch.setattr(memory_quarantine, "memory_available", lambda: 2048.0)
    quarantine.release_excess()
    assert all(map(is_open, files)), "the host has enough memory"

    def available() -> float:
        return 2048 - sum(map(is_open, files[:2]))

    monkeypatch.setattr(memory_quarantine, "memory_available", available)
    quarantine.release_excess()
    assert list(map(is_open, files)) == [False, False, True, True]
    monkeypatch.setattr(memory_quarantine, "memory_available", lambda: 0.0)
    quarantine.release_excess()
    assert not any(map(is_open, files))
    quarantine.release_excess()


def test_number_of_files_is_limited() -> None:
    quarantine = MemoryQuarantine()
    quarantine.enabled = True
    files = [written_file() for _ in range(65)]
    for file in files:
        quarantine.add(file)
    assert [is_open(file) for file in files] == [False] + [True] * 64
    quarantine.close()


def test_available_memory_is_in_mib() -> None:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / MIB
    assert 1 < memory_available() <= pages
