"""The initramfs archive: what the kernel's unpacker relies on."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from images.cpio import Cpio


def archive() -> bytes:
    cpio = Cpio()
    cpio.directory("harness")
    cpio.file("harness/odd", b"12345", 0o640)
    cpio.character_device("console", 5, 1)
    cpio.file("/init", b"#!", 0o755)
    return bytes(cpio)


def read(data: bytes) -> dict[str, tuple[int, int, bytes]]:
    """Mode, inode and contents of each entry, by the format's own rules."""
    found: dict[str, tuple[int, int, bytes]] = {}
    position = 0
    while True:
        assert data[position : position + 6] == b"070701"
        fields = [int(data[position + 6 + 8 * i :][:8], 16) for i in range(13)]
        name = data[position + 110 :][: fields[11] - 1].decode()
        assert data[position + 110 + fields[11] - 1] == 0
        if name == "TRAILER!!!":
            return found
        start = (position + 110 + fields[11] + 3) // 4 * 4
        found[name] = (fields[1], fields[0], data[start : start + fields[6]])
        position = (start + fields[6] + 3) // 4 * 4


def test_entries_come_back() -> None:
    entries = read(archive())
    assert list(entries) == ["harness", "harness/odd", "console", "init"]
    assert entries["harness"][0] == 0o040755
    assert entries["harness/odd"] == (0o100640, 2, b"12345")
    assert entries["console"][0] == 0o020600
    assert entries["init"][0] == 0o100755


def test_inodes_differ_so_that_nothing_is_a_hard_link() -> None:
    inodes = [entry[1] for entry in read(archive()).values()]
    assert len(set(inodes)) == len(inodes)


def test_same_bytes_every_time_and_padded_for_concatenation() -> None:
    assert archive() == archive()
    assert len(archive()) % 512 == 0


@pytest.mark.skipif(not shutil.which("cpio"), reason="the program cpio is not installed")
def test_the_cpio_program_reads_two_joined_archives() -> None:
    other = Cpio()
    other.file("identity", b"x")
    done = subprocess.run(
        ["cpio", "-t", "--quiet"], input=archive() + bytes(other), capture_output=True, check=True
    )
    assert done.stdout.split() == [b"harness", b"harness/odd", b"console", b"init"]
