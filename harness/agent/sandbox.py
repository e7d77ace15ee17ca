"""Drops the privileges of a guest's process after its machine is built.

All code that runs afterwards must follow this rule: every file and device is open before the first
vCPU runs, or arrives as a descriptor with a request ("files" in `supervisor`). The process cannot
open a path, start a program, import a module or signal a process; it can only connect to guests.

Steps that this kernel or user does not permit are skipped: `enter` returns the steps that took
effect.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import struct
from collections.abc import Iterator, Sequence
from typing import Callable

from harness.kvm import libc

from .process import die_with_parent

_NOBODY = 65534
_PR_SET_NAME, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 15, 24, 38
_CAPGET, _CAPSET = 125, 126
_OUR_CAPABILITIES = struct.pack("<Ii", 0x2008_0522, 0)  # version 3, of the calling thread

# seccomp (linux/seccomp.h) and its programs in classic BPF (linux/filter.h)
_SECCOMP, _SET_MODE_FILTER, _ALL_THREADS = 317, 1, 1
_KILL, _ERRNO, _ALLOW = 0x8000_0000, 0x0005_0000, 0x7FFF_0000
_LOAD, _AND, _RETURN, _EQUAL, _AT_LEAST = 0x20, 0x54, 0x06, 0x15, 0x35
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_X86_64, _X32 = 0xC000_003E, 0x4000_0000

# Calls of a Python program that serves queues, waits and starts threads.
_ALLOWED_CALLS = """
    futex=202 read=0 write=1 preadv=295 pwritev=296 poll=7 ppoll=271 select=23 pselect6=270
    pread64=17 pwrite64=18 readv=19 writev=20 preadv2=327 pwritev2=328 lseek=8 ftruncate=77
    fsync=74 fdatasync=75 msync=26 fallocate=285 epoll_wait=232 epoll_pwait=281 epoll_ctl=233
    epoll_create1=291 recvfrom=45 recvmsg=47 sendto=44 sendmsg=46 shutdown=48 close=3 fstat=5
    newfstatat=262 fcntl=72 dup=32 eventfd2=290 memfd_create=319 munmap=11 mremap=25 madvise=28
    brk=12 rt_sigaction=13 rt_sigprocmask=14 rt_sigreturn=15 sigaltstack=131 restart_syscall=219
    set_robust_list=273 rseq=334 membarrier=324 gettid=186 getpid=39 getppid=110 getuid=102
    geteuid=107 sched_yield=24 sched_getaffinity=204 sched_setaffinity=203 nanosleep=35
    clock_nanosleep=230 clock_gettime=228 clock_getres=229 gettimeofday=96 time=201 getrandom=318
    getrusage=98 sysinfo=99 uname=63 wait4=61 exit=60 exit_group=231 connect=42 getsockopt=55
    setsockopt=54 getsockname=51 getpeername=52
"""
# Calls that the interpreter may try, and that may fail. clone3 is among them because its flags are
# in memory, where a filter cannot read them; libc then uses clone. Any other call ends the process:
# only injected code would make it.
_FAILING_CALLS = """
    ioctl=16 mmap=9 mprotect=10 prctl=157 open=2 openat=257 stat=4 lstat=6 statx=332 access=21
    faccessat=269 faccessat2=439 readlink=89 readlinkat=267 getcwd=79 prlimit64=302 clone3=435
    kill=62 socket=41
"""
# number of the call, index of an argument, mask, and the allowed values of the masked argument
_Rule = tuple[int, int, int, tuple[int, ...]]
_IOCTL: _Rule = (16, 1, 0xFF00, (0xAE00, 0xAF00, 0x5400, 0x1200))  # KVM, vhost, tun, disks
_RULES: tuple[_Rule, ...] = (
    (9, 2, 4, (0,)),  # mmap and mprotect: nothing executable
    (10, 2, 4, (0,)),
    (56, 0, 0x1_0000, (0x1_0000,)),  # clone: only threads (CLONE_THREAD)
    (157, 0, 0xFFFF_FFFF, (_PR_SET_NAME,)),
    (41, 0, 0xFFFF_FFFF, (40,)),  # socket: AF_VSOCK
)
_TGKILL = 234


def enter() -> list[str]:
    """Drop the privileges that a running machine does not need; returns the steps that worked."""
    parent = os.getppid()
    steps: dict[str, Callable[[], object]] = {
        "no core dump": lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
        "user nobody": _become_nobody,
        "no capabilities": _drop_all_capabilities,
        "no new privileges": lambda: libc.prctl(_PR_SET_NO_NEW_PRIVS, 1),
        "seccomp": _seccomp,
    }
    done = []
    for name, step in steps.items():
        if name == "seccomp":
            die_with_parent(parent)  # again: the change of user cleared the death signal
        with contextlib.suppress(OSError):
            step()
            done.append(name)
    return done


def _become_nobody() -> None:
    """Raises OSError without root, and in a user namespace without a mapping for nobody."""
    for capability in range(64):
        try:
            libc.prctl(_PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno != errno.EINVAL:  # above the last capability
                raise
            break
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)


def drop_capabilities(capabilities: Sequence[int]) -> None:
    """Deny capabilities to all programs that this process starts, also to those of root.

    They are removed from the bounding set and from the inheritable set (capabilities(7)). Raises
    OSError.
    """
    for capability in capabilities:
        libc.prctl(_PR_CAPBSET_DROP, capability)
    current = ctypes.create_string_buffer(24)
    libc.syscall(_CAPGET, _OUR_CAPABILITIES, current)
    effective, permitted, _, *high = struct.unpack("<6I", current.raw)
    data = struct.pack("<6I", effective, permitted, 0, *high[:2], 0)
    libc.syscall(_CAPSET, _OUR_CAPABILITIES, data)


def _drop_all_capabilities() -> None:
    libc.syscall(_CAPSET, _OUR_CAPABILITIES, bytes(24))


def _seccomp() -> None:
    # only its own threads: other guests' processes have the same user
    tgkill = b"".join(_rule((_TGKILL, 0, 0xFFFF_FFFF, (os.getpid(),))))
    code = ctypes.create_string_buffer(_PROLOGUE + tgkill + _EPILOGUE)
    filters = struct.pack("<H6xQ", len(code) // 8, ctypes.addressof(code))
    libc.syscall(_SECCOMP, _SET_MODE_FILTER, _ALL_THREADS, filters)


def _prologue() -> Iterator[bytes]:
    """The start of every filter; the most frequent calls come first."""
    yield _instruction(_LOAD, _ARCHITECTURE)
    yield _instruction(_EQUAL, _X86_64, yes=1)
    yield _instruction(_RETURN, _KILL)
    yield _instruction(_LOAD, _NUMBER)
    yield _instruction(_AT_LEAST, _X32, no=1)
    yield _instruction(_RETURN, _KILL)
    yield from _rule(_IOCTL)
    yield from _for_each_call(_ALLOWED_CALLS, _ALLOW)
    for rule in _RULES:
        yield from _rule(rule)


def _epilogue() -> Iterator[bytes]:
    """The end of every filter."""
    yield from _for_each_call(_FAILING_CALLS, _ERRNO | errno.ENOSYS)
    yield _instruction(_RETURN, _KILL)


def _instruction(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    """struct sock_filter; yes, no: instructions to skip after a comparison."""
    return struct.pack("<HBBI", code, yes, no, value)


def _for_each_call(table: str, action: int) -> Iterator[bytes]:
    for pair in table.split():
        yield _instruction(_EQUAL, int(pair.split("=")[1]), no=1)
        yield _instruction(_RETURN, action)


def _rule(rule: _Rule) -> Iterator[bytes]:
    """Allow a call for some values of an argument's low 32 bits; later rules see other values."""
    call, argument, mask, values = rule
    yield _instruction(_EQUAL, call, no=3 + 2 * len(values))
    yield _instruction(_LOAD, _ARGUMENTS + 8 * argument)
    yield _instruction(_AND, mask)
    for value in values:
        yield _instruction(_EQUAL, value, no=1)
        yield _instruction(_RETURN, _ALLOW)
    yield _instruction(_LOAD, _NUMBER)


# computed once, in the supervisor
_PROLOGUE, _EPILOGUE = b"".join(_prologue()), b"".join(_epilogue())
