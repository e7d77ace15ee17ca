"""Private dirty pages of this process."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.agent import private_dirty_pages as module
from harness.agent.private_dirty_pages import private_dirty_pages

PAGE = mmap.PAGESIZE
PAGES = 64  # of memory; one more page follows in the file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a memory file"
    path.write_bytes(b"x" * (PAGES + 1) * PAGE)
    return path


def map_private(path: Path, first: int, count: int) -> mmap.mmap:
    with path.open("r+b") as opened:
        return mmap.mmap(opened.fileno(), count * PAGE, flags=mmap.MAP_PRIVATE, offset=first * PAGE)


@pytest.fixture
def mapping(file: Path) -> Iterator[mmap.mmap]:
    with map_private(file, 0, PAGES) as mapped:
        yield mapped


def test_written_pages_are_found_and_read_pages_are_not(file: Path, mapping: mmap.mmap) -> None:
    assert private_dirty_pages(os.getpid(), str(file)) == []
    assert mapping[5 * PAGE] == ord("x")
    assert private_dirty_pages(os.getpid(), str(file)) == []
    for page in (0, 9, 10, 11, PAGES - 1):
        mapping[page * PAGE] = 0
    assert private_dirty_pages(os.getpid(), str(file)) == [0, 1, 9, 3, PAGES - 1, 1]


def test_pagemap_is_read_in_chunks(
    file: Path, mapping: mmap.mmap, monkeypatch: pytest.MonkeyPatch
) -> None:
    for page in (0, 9, 10, 11, PAGES - 1):
        mapping[page * PAGE] = 0
    monkeypatch.setattr(module, "_READ_SIZE", 8 * 10)
    assert private_dirty_pages(os.getpid(), str(file)) == [0, 1, 9, 1, 10, 2, PAGES - 1, 1]


def test_partial_mappings_and_other_files(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(file.read_bytes())
    with map_private(file, 32, 8) as part, map_private(other, 0, 8) as another:
        part[3 * PAGE] = another[4 * PAGE] = 0
        assert private_dirty_pages(os.getpid(), str(file)) == [35, 1]
        link = tmp_path / "link"
        link.symlink_to(tmp_path)
        assert private_dirty_pages(os.getpid(), f"{link}/{file.name}") == [35, 1]


def test_too_many_pages_give_an_empty_list(
    file: Path, mapping: mmap.mmap, monkeypatch: pytest.MonkeyPatch
) -> None:
    for page in (1, 2, 3, 9):
        mapping[page * PAGE] = 0
    monkeypatch.setattr(module, "_MAX_PAGES", 4)
    assert private_dirty_pages(os.getpid(), str(file)) == [1, 3, 9, 1]
    monkeypatch.setattr(module, "_MAX_PAGES", 3)
    assert private_dirty_pages(os.getpid(), str(file)) == []


def test_pages_beyond_the_memory_are_left_out(file: Path) -> None:
    """A compromised process may map any part of the file, and several times."""
    os.truncate(file, 68 * PAGE)
    with map_private(file, 60, 8) as beyond:
        beyond[3 * PAGE] = beyond[4 * PAGE] = 0  # the last page of memory, and the page behind it
        os.truncate(file, (PAGES + 1) * PAGE)
        assert private_dirty_pages(os.getpid(), str(file)) == [63, 1]
    mappings = [map_private(file, 0, PAGES) for _ in range(3)]
    for one in mappings:
        one[60 * PAGE] = 0
    assert private_dirty_pages(os.getpid(), str(file)) == [60, 1], (
        "no more than one mapping's length"
    )
    for one in mappings:
        one.close()


def test_missing_process_or_file_raises_os_error(file: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        private_dirty_pages(1 << 30, str(file))
    file.unlink()
    with pytest.raises(OSError, match="No such file"):
        private_dirty_pages(os.getpid(), str(file))
