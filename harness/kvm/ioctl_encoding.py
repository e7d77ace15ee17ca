"""Encodes ioctl numbers: direction, argument size, driver, number.

Source: include/uapi/asm-generic/ioctl.h. driver: the number's type byte, 0xAE for KVM.
"""

from __future__ import annotations

_NR_BITS, _TYPE_BITS = 8, 8
_SIZE_SHIFT = _NR_BITS + _TYPE_BITS
_DIRECTION_SHIFT = 30
_WRITE, _READ = 1, 2  # as user space sees it: the kernel reads what is written


def io(driver: int, nr: int) -> int:
    """_IO: the argument is none, or an integer."""
    return driver << _NR_BITS | nr


def iow(driver: int, nr: int, size: int) -> int:
    """_IOW: the kernel reads a structure of `size` bytes."""
    return _WRITE << _DIRECTION_SHIFT | size << _SIZE_SHIFT | io(driver, nr)


def ior(driver: int, nr: int, size: int) -> int:
    """_IOR: the kernel fills a structure of `size` bytes."""
    return _READ << _DIRECTION_SHIFT | size << _SIZE_SHIFT | io(driver, nr)


def iowr(driver: int, nr: int, size: int) -> int:
    """_IOWR: the kernel reads and fills a structure of `size` bytes."""
    return iow(driver, nr, size) | ior(driver, nr, size)
