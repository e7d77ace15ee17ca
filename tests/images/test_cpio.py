"""The initramfs archive, as the kernel's unpacker expects it."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from images.cpio import Cpio


def make_archive() -> bytes:
    cpio = Cpio()
    cpio.add_directory("harness")
    cpio.add_file("harness/odd", b"12345", 0o640)
    cpio.add_character_device("console", 5, 1)
    cpio.add_file("/init", b"#!", 0o755)
    return bytes(cpio)


def read(data: bytes) -> dict[str, tuple[int, int, bytes]]:
    """Mode, inode number and contents of each entry, parsed independently of Cpio."""
    entries: dict[str, tuple[int, int, bytes]] = {}
    position = 0
    while True:
        assert data[position : position + 6] == b"070701"
        fields = [int(data[position + 6 + 8 * i :][:8], 16) for i in range(13)]
        name = data[position + 110 :][: fields[11] - 1].decode()
        assert data[position + 110 + fields[11] - 1] == 0
        if name == "TRAILER!!!":
            return entries
        start = (position + 110 + fields[11] + 3) // 4 * 4
        entries[name] = (fields[1], fields[0], data[start : start + fields[6]])
        position = (start + fields[6] + 3) // 4 * 4


def test_entries_are_readable() -> None:
    entries = read(make_archive())
    assert list(entries) == ["harness", "harness/odd", "console", "init"]
    assert entries["harness"][0] == 0o040755
    assert entries["harness/odd"] == (0o100640, 2, b"12345")
    assert entries["console"][0] == 0o020600
    assert entries["init"][0] == 0o100755


def test_inode_numbers_are_unique() -> None:
    inodes = [entry[1] for entry in read(make_archive()).values()]
    assert len(set(inodes)) == len(inodes)


def test_archive_is_reproducible_and_padded() -> None:
    assert make_archive() == make_archive()
    assert len(make_archive()) % 512 == 0


@pytest.mark.skipif(not shutil.which("cpio"), reason="the program cpio is not installed")
def test_cpio_program_reads_concatenated_archives() -> None:
    other = Cpio()
    other.add_file("identity", b"x")
    done = subprocess.run(
        ["cpio", "-t", "--quiet"],
        input=make_archive() + bytes(other),
        capture_output=True,
        check=True,
    )
    assert done.stdout.split() == [b"harness", b"harness/odd", b"console", b"init"]
