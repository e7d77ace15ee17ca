"""Calls of the C library that Python 3.9 has no function for.

A failed call raises OSError with its errno. An integer argument of a variadic call is passed as an
unsigned long, as the kernel reads it.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t) + (ctypes.c_int,) * 3 + (ctypes.c_long,)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_libc.mount.argtypes = (ctypes.c_char_p,) * 3 + (ctypes.c_ulong, ctypes.c_char_p)
_libc.syscall.restype = ctypes.c_long
_MAP_FAILED = ctypes.c_void_p(-1).value


def _checked(result: int, call: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
    return result


def _variadic(arguments: tuple[Any, ...]) -> list[Any]:
    return [ctypes.c_ulong(one) if isinstance(one, int) else one for one in arguments]


def eventfd(initial: int, flags: int) -> int:
    """A new eventfd's descriptor (os.eventfd needs Python 3.10)."""
    return _checked(int(_libc.eventfd(initial, flags)), "eventfd")


def ioctl(fd: int, request: int, argument: int) -> int:
    """ioctl(2) with a number of more than 31 bits, which fcntl.ioctl does not take."""
    return _checked(int(_libc.ioctl(fd, ctypes.c_ulong(request), *_variadic((argument,)))), "ioctl")


def prctl(option: int, *arguments: int | bytes) -> int:
    """prctl(2); arguments that are left out are 0, as some options require."""
    padded = (*arguments, 0, 0, 0, 0)[:4]
    return _checked(int(_libc.prctl(option, *_variadic(padded))), "prctl")


def syscall(number: int, *arguments: Any) -> int:
    """System call `number`. arguments: integers, bytes or ctypes buffers."""
    return _checked(int(_libc.syscall(ctypes.c_long(number), *_variadic(arguments))), "syscall")


def unshare(flags: int) -> None:
    """Move the calling thread into new namespaces, CLONE_NEW* (os.unshare needs Python 3.12)."""
    _checked(int(_libc.unshare(flags)), "unshare")


def setns(fd: int, kind: int = 0) -> None:
    """Move the calling thread into a namespace. kind: CLONE_NEW*, 0 for any (os.setns needs
    Python 3.12)."""
    _checked(int(_libc.setns(fd, kind)), "setns")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2); an empty string is passed as NULL."""
    source_, target_, kind_, data_ = (
        text.encode() or None for text in (source, target, kind, data)
    )
    result = int(_libc.mount(source_, target_, kind_, flags, data_))
    _checked(result, f"mount of {source} at {target}")


def mmap(
    address: int | None, size: int, protection: int, flags: int, *, fd: int = -1, offset: int = 0
) -> int:
    """The address of a new mapping (mmap.mmap hides it, and accepts no address)."""
    result = _libc.mmap(address, size, protection, flags, fd, offset)
    return _checked(-1 if result == _MAP_FAILED else int(result), "mmap")


def mprotect(address: int, size: int, protection: int) -> None:
    """Change the protection of mapped pages."""
    _checked(int(_libc.mprotect(address, size, protection)), "mprotect")


def madvise(address: int, size: int, advice: int) -> None:
    """Give the kernel advice on mapped pages. advice: MADV_*."""
    _checked(int(_libc.madvise(address, size, advice)), "madvise")


def memcmp(first: int, second: int, size: int) -> int:
    """Compare `size` bytes at two addresses; 0 if they are equal."""
    return int(_libc.memcmp(first, second, size))
