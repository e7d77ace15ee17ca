"""Which pages a process has of its own, told of this one."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.agent import private_pages as module
from harness.agent.private_pages import private_dirty_pages

PAGE = mmap.PAGESIZE
PAGES = 64  # of memory; the page after them is none


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a memory file"
    path.write_bytes(b"x" * (PAGES + 1) * PAGE)
    return path


def private(path: Path, first: int, count: int) -> mmap.mmap:
    with path.open("r+b") as opened:
        return mmap.mmap(opened.fileno(), count * PAGE, flags=mmap.MAP_PRIVATE, offset=first * PAGE)


@pytest.fixture
def whole(file: Path) -> Iterator[mmap.mmap]:
    with private(file, 0, PAGES) as mapping:
        yield mapping


def test_what_is_written_and_not_what_is_read(file: Path, whole: mmap.mmap) -> None:
    assert private_dirty_pages(os.getpid(), str(file)) == []
    assert whole[5 * PAGE] == ord("x")
    assert private_dirty_pages(os.getpid(), str(file)) == []
    for page in (0, 9, 10, 11, PAGES - 1):
        whole[page * PAGE] = 0
    assert private_dirty_pages(os.getpid(), str(file)) == [0, 1, 9, 3, PAGES - 1, 1]


def test_pieces_of_a_pagemap(file: Path, whole: mmap.mmap, monkeypatch: pytest.MonkeyPatch) -> None:
    for page in (0, 9, 10, 11, PAGES - 1):
        whole[page * PAGE] = 0
    monkeypatch.setattr(module, "_PIECE", 8 * 10)
    assert private_dirty_pages(os.getpid(), str(file)) == [0, 1, 9, 1, 10, 2, PAGES - 1, 1]


def test_a_part_of_a_file_and_others_files(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(file.read_bytes())
    with private(file, 32, 8) as part, private(other, 0, 8) as another:
        part[3 * PAGE] = another[4 * PAGE] = 0
        assert private_dirty_pages(os.getpid(), str(file)) == [35, 1]
        link = tmp_path / "link"
        link.symlink_to(tmp_path)
        assert private_dirty_pages(os.getpid(), f"{link}/{file.name}") == [35, 1]


def test_what_others_clones_would_not_write(
    file: Path, whole: mmap.mmap, monkeypatch: pytest.MonkeyPatch
) -> None:
    for page in (1, 2, 3, 9):
        whole[page * PAGE] = 0
    monkeypatch.setattr(module, "_MOST", 4)
    assert private_dirty_pages(os.getpid(), str(file)) == [1, 3, 9, 1]
    monkeypatch.setattr(module, "_MOST", 3)
    assert private_dirty_pages(os.getpid(), str(file)) == []


def test_nothing_beyond_the_file_is_told(file: Path) -> None:
    """Whatever a process that was taken over maps of it, and however often."""
    os.truncate(file, 68 * PAGE)
    with private(file, 60, 8) as beyond:
        beyond[3 * PAGE] = beyond[4 * PAGE] = 0  # its last page, and what is no memory
        os.truncate(file, (PAGES + 1) * PAGE)
        assert private_dirty_pages(os.getpid(), str(file)) == [63, 1]
    mappings = [private(file, 0, PAGES) for _ in range(3)]
    for mapping in mappings:
        mapping[60 * PAGE] = 0
    assert private_dirty_pages(os.getpid(), str(file)) == [60, 1], (
        "no more than one mapping's length"
    )
    for mapping in mappings:
        mapping.close()


def test_nobody_and_nothing(file: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        private_dirty_pages(1 << 30, str(file))
    file.unlink()
    with pytest.raises(OSError, match="No such file"):
        private_dirty_pages(os.getpid(), str(file))
