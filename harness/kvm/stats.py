"""KVM's binary statistics (api.rst 4.133, KVM_GET_STATS_FD): counters that the kernel keeps."""

from __future__ import annotations

import os
import struct
from fcntl import ioctl

from . import ioctls, structs

_TYPE_MASK = 0x0F  # 0 cumulative, 1 instant, 2 peak, 3 linear and 4 logarithmic histogram
_HISTOGRAM = 3


class BinaryStats:
    """The counters of one VM or vCPU. The descriptors are read once, the data at each call."""

    def __init__(self, fd: int) -> None:
        """fd: of the VM or vCPU. Raises OSError (ENOTTY) on kernels before 5.14."""
        self.fd = ioctl(fd, ioctls.GET_STATS_FD)
        header = os.pread(self.fd, structs.STATS_HEADER.size, 0)
        _, name_size, count, _, desc_at, self._data_at = structs.STATS_HEADER.unpack(header)
        step = structs.STATS_DESC.size + name_size
        raw = os.pread(self.fd, step * count, desc_at)
        self._fields = []
        for at in range(0, len(raw), step):
            flags, _, _, offset, _ = structs.STATS_DESC.unpack_from(raw, at)
            if flags & _TYPE_MASK < _HISTOGRAM:
                name = raw[at + structs.STATS_DESC.size : at + step].split(b"\0", 1)[0].decode()
                self._fields.append((name, offset))
        self._size = max((offset for _, offset in self._fields), default=0) + 8

    def read(self) -> dict[str, int]:
        """The present value of each counter, by name."""
        data = os.pread(self.fd, self._size, self._data_at)
        return {name: struct.unpack_from("<Q", data, offset)[0] for name, offset in self._fields}

    def close(self) -> None:
        os.close(self.fd)
