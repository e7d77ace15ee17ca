"""Memory of ended guests that is kept from being used again."""

from __future__ import annotations

import os

import pytest

from harness.agent import memory_quarantine
from harness.agent.memory_quarantine import MemoryQuarantine
from harness.agent.utilization import memory_available
from harness.vmm.memory import create_memory_file

MIB = 1 << 20


def used(mib: int = 1) -> int:
    """A memory file in which something was written."""
    file = create_memory_file()
    os.pwrite(file, b"\1" * mib * MIB, 0)
    return file


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_nothing_is_kept_unasked() -> None:
    made, file = MemoryQuarantine(), used()
    made.add(file)
    assert not is_open(file)
    assert made.held == 0


def test_only_what_was_used_is_kept() -> None:
    made, empty, file = MemoryQuarantine(), create_memory_file(), used(3)
    made.wanted = True
    made.add(empty)
    made.add(file)
    assert (is_open(empty), is_open(file)) == (False, True)
    assert made.held == 3
    made.close()
    assert not is_open(file)
    assert made.held == 0


def test_the_oldest_goes_when_the_host_is_short_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    made, files = MemoryQuarantine(), [used() for _ in range(4)]
    made.wanted = True
    for file in files:
        made.add(file)
    monkeypatch.setattr(memory_quarantine, "memory_available", lambda: 2048.0)
    made.make_room()
    assert all(map(is_open, files)), "there is memory to spare"

    def available() -> float:
        return 2048 - sum(map(is_open, files[:2]))

    monkeypatch.setattr(memory_quarantine, "memory_available", available)
    made.make_room()
    assert list(map(is_open, files)) == [False, False, True, True]
    monkeypatch.setattr(memory_quarantine, "memory_available", lambda: 0.0)
    made.make_room()
    assert not any(map(is_open, files))
    made.make_room()


def test_not_every_descriptor_goes_to_it() -> None:
    made = MemoryQuarantine()
    made.wanted = True
    files = [used() for _ in range(65)]
    for file in files:
        made.add(file)
    assert [is_open(file) for file in files] == [False] + [True] * 64
    made.close()


def test_available_memory_is_in_mib() -> None:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / MIB
    assert 1 < memory_available() <= pages
