"""Which pages of a snapshot's memory a clone has written, for the next ones to have copied before
they run: each would else cost an exit or two. Clones of one snapshot write all but the same pages
until they are ready."""

from __future__ import annotations

import re

from harness.vmm.memory import PAGE

_MOST = 4096  # runs of pages; a clone that wrote more has done more than to get ready
_PIECE = 1 << 20  # bytes of a pagemap to read at once
_ENTRY = 8
# the highest byte of such an entry (Documentation/admin-guide/mm/pagemap.rst): bit 63, present, or
# 62, swapped out, without 61, a page of the file's
_OWN = re.compile(rb"[\x40-\x5f\x80-\x9f]+")


def copied(pid: int, path: str) -> list[int]:
    """Of a file that a process maps privately: the first page that it has written and how many
    follow one another from there on, and so on for each run. Raises OSError."""
    found: list[int] = []
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as maps:
        mappings = [line.rstrip("\n").split(maxsplit=5) for line in maps]
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
        for addresses, _, offset, _, _, *name in mappings:
            if name != [path]:
                continue
            start, end = (int(address, 16) // PAGE for address in addresses.split("-"))
            first = int(offset, 16) // PAGE - start
            pagemap.seek(start * _ENTRY)
            while start < end and (data := pagemap.read(min(_PIECE, (end - start) * _ENTRY))):
                for run in _OWN.finditer(data[_ENTRY - 1 :: _ENTRY]):
                    found += first + start + run.start(), run.end() - run.start()
                start += len(data) // _ENTRY
    return found[: 2 * _MOST]
