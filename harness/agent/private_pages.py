"""Which pages of a snapshot's memory a clone has written, for the next ones to have copied before
they run: each would else cost an exit or two. Clones of one snapshot write all but the same pages
until they are ready."""

from __future__ import annotations

import os
import re

from harness.vmm.memory import PAGE

_MOST = 4096  # pages; a clone that has written more has done more than to get ready
_PIECE = 1 << 20  # bytes of a pagemap to read at once
_ENTRY = 8
# The highest byte of such an entry (Documentation/admin-guide/mm/pagemap.rst): bit 63, present, or
# 62, swapped out, without 61, a page of the file's. Kernels before 6.11 without the backport of
# "indicate PM_FILE for PMD-mapped file THP" tell huge pages that were read the same; _MOST is less.
_OWN = re.compile(rb"[\x40-\x5f\x80-\x9f]+")


def private_dirty_pages(pid: int, path: str) -> list[int]:
    """Of a file of memory that a process maps privately, what it has written: the first page and
    how many follow one another from there on, for each run of them. Nothing if that is more than
    clones do in getting ready; of the process nothing is believed. Raises OSError."""
    found: list[int] = []
    path = os.path.realpath(path)
    pages = os.stat(path).st_size // PAGE - 1  # the last one is no memory (see vmm.snapshot)
    left, budget = pages, _MOST
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as maps:
        mappings = [line.rstrip("\n").split(maxsplit=5) for line in maps]
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
        for addresses, _, offset, _, _, *name in mappings:
            if name != [path]:
                continue
            start, end = (int(address, 16) // PAGE for address in addresses.split("-"))
            first = int(offset, 16) // PAGE - start
            end = min(end, pages - first, start + left)
            left -= max(0, end - start)
            pagemap.seek(start * _ENTRY)
            while start < end and (data := pagemap.read(min(_PIECE, (end - start) * _ENTRY))):
                for run in _OWN.finditer(data[_ENTRY - 1 :: _ENTRY]):
                    found += first + start + run.start(), run.end() - run.start()
                    budget -= found[-1]
                    if budget < 0:
                        return []
                start += len(data) // _ENTRY
    return found
