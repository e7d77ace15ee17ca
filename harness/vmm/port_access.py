"""Port accesses as struct kvm_run describes them, decoded once each."""

from __future__ import annotations

from harness.kvm import structs

_CACHE_LIMIT = 256

# whether it writes, size, port, count, words of that size, and the index of the first word. A plain
# tuple: to unpack a named one takes several times as long.
PortAccess = tuple[int, int, int, int, memoryview, int]


class PortAccessCache(dict[int, PortAccess]):
    """Maps the 8 bytes that describe a port access to the decoded access.

    A guest repeats a few accesses. The data of all of them lie at a fixed offset
    (KVM_PIO_PAGE_OFFSET, asm/kvm.h), so a decoded access stays valid.
    """

    def __init__(self, words: dict[int, memoryview]) -> None:
        """words: struct kvm_run as words of 1, 2, 4 and 8 bytes, by size."""
        super().__init__()
        self._words = words

    def __missing__(self, description: int) -> PortAccess:
        if len(self) >= _CACHE_LIMIT:
            self.clear()
        io = structs.RUN_IO.unpack_from(self._words[1], structs.RUN_UNION)
        is_write, size, port, count, offset = io
        self[description] = access = (
            *(is_write, size, port, count),
            *(self._words[size], offset // size),
        )
        return access
