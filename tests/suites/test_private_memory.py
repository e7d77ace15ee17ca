"""Private memory of a VMM process is read from smaps without guest memory."""

from __future__ import annotations

from benchmarks.private_memory import parse_smaps

SMAPS = """\
7f0000000000-7f0008000000 rw-p 00000000 00:00 0
Size:             131072 kB
Private_Clean:         0 kB
Private_Dirty:     90112 kB
VmFlags: rd wr mr mw me ac hg
55d000000000-55d000200000 rw-p 00000000 00:00 0          [heap]
Size:               2048 kB
Shared_Dirty:        512 kB
Private_Clean:       512 kB
Private_Dirty:      1024 kB
VmFlags: rd wr mr mw me ac
"""


def test_guest_memory_and_shared_pages_are_not_private() -> None:
    assert parse_smaps(SMAPS) == (1.5, 128.0)
