"""Finds the pages of a snapshot's memory that a clone has written.

Clones of one snapshot write almost the same pages until they are ready. With this list the next
clones copy these pages before they run, and save an exit or two for each page.
"""

from __future__ import annotations

import os
import re

from harness.vmm.memory import PAGE

_MAX_PAGES = 4096  # a clone that has written more has done other work already
_READ_SIZE = 1 << 20  # bytes of a pagemap
_ENTRY = 8  # bytes
# The highest byte of a pagemap entry (Documentation/admin-guide/mm/pagemap.rst). A page is private
# if bit 63 (present) or 62 (swapped) is set and bit 61 (page of a file) is not. Kernels before 6.11
# may lack "indicate PM_FILE for PMD-mapped file THP": there, huge pages that a clone only read look
# private, too. They exceed _MAX_PAGES.
_PRIVATE = re.compile(rb"[\x40-\x5f\x80-\x9f]+")


def private_dirty_pages(pid: int, path: str) -> list[int]:
    """The runs of pages that a process has written in its private mapping of a memory file.

    Returns first page and length of each run, one after the other; [] for more than _MAX_PAGES
    pages. The process is not trusted: pages outside of the file's memory are left out. Raises
    OSError.
    """
    runs: list[int] = []
    path = os.path.realpath(path)
    pages = os.stat(path).st_size // PAGE - 1  # the last page is not memory (see vmm.snapshot)
    unread, budget = pages, _MAX_PAGES
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as maps:
        mappings = [line.rstrip("\n").split(maxsplit=5) for line in maps]
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
        for addresses, _, offset, _, _, *name in mappings:
            if name != [path]:
                continue
            start, end = (int(address, 16) // PAGE for address in addresses.split("-"))
            first = int(offset, 16) // PAGE - start
            end = min(end, pages - first, start + unread)
            unread -= max(0, end - start)
            pagemap.seek(start * _ENTRY)
            while start < end and (data := pagemap.read(min(_READ_SIZE, (end - start) * _ENTRY))):
                for run in _PRIVATE.finditer(data[_ENTRY - 1 :: _ENTRY]):
                    runs += first + start + run.start(), run.end() - run.start()
                    budget -= runs[-1]
                    if budget < 0:
                        return []
                start += len(data) // _ENTRY
    return runs
