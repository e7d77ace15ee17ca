"""The guests' private network: a bridge in a network namespace of its own, and no way out of it.

The namespace has no name. Descriptors of the supervisor hold it, guests' processes are in it, and
it vanishes with them, bridge, taps and all, however they end. Without root it belongs to a user
namespace of the same user (user_namespaces(7)), which is held and entered likewise.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from fcntl import ioctl
from typing import Any, NoReturn

from harness.kvm import libc
from harness.kvm.errors import ConfigError

from .tap import interface_up

BRIDGE = "guests"
ADDRESS, PREFIX = "10.1.0.1", 16
_MAC = bytes.fromhex("02000a010001")

_CLONE_NEWUSER, _CLONE_NEWNET = 0x1000_0000, 0x4000_0000

# linux/sockios.h; a request's argument is a struct ifreq: name, then a union of 24 bytes
_SIOCBRADDBR = 0x89A0
_SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCSIFHWADDR = 0x8916, 0x891C, 0x8924
_ARPHRD_ETHER = 1


class Network:
    """Made at the first call of `facts`, so that a session without networked guests pays nothing.

    Meant for a supervisor that forks: it stays where it is, and a fork calls `enter`.
    """

    def __init__(self) -> None:
        self._fds: dict[str, int] = {}  # namespace ("user", "net") to descriptor

    def facts(self) -> dict[str, Any]:
        """Where it is: whoever may enter finds it as /proc/PID/fd/N. Raises ConfigError."""
        if not self._fds:
            self._fds = _make()
        place = {name: f"/proc/{os.getpid()}/fd/{fd}" for name, fd in self._fds.items()}
        return {"bridge": BRIDGE, "address": ADDRESS, "prefix": PREFIX, "namespaces": place}

    def enter(self) -> None:
        """Move the calling process, which has one thread, into it. Raises ConfigError, OSError."""
        if not self._fds:  # a bridge of that name elsewhere would be the host's own
            raise ConfigError("the guests' network was not made", 'ask for "connectivity" first')
        for fd in self._fds.values():  # the user namespace first: it gives the right to the other
            libc.setns(fd)

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds = {}


def _make() -> dict[str, int]:
    """Have a short-lived child make the namespaces: from a user namespace nobody comes back."""
    ours, theirs = socket.socketpair()
    with ours:
        pid = os.fork()
        if pid == 0:
            _maker(theirs)
        theirs.close()
        error, fds, _, _ = socket.recv_fds(ours, 4096, 2, socket.MSG_CMSG_CLOEXEC)
        os.waitpid(pid, 0)
    if error != b"ok":
        cause, _, hint = error.decode().partition("\n")
        raise ConfigError(cause or "the network's maker died", hint)
    return dict(zip(("user", "net")[-len(fds) :], fds))


def _maker(answer: socket.socket) -> NoReturn:
    try:
        names = _unshare()
        _say_nothing()
        _add_bridge()
        fds = [os.open(f"/proc/self/ns/{name}", os.O_RDONLY) for name in names]
        socket.send_fds(answer, [b"ok"], fds)
    except ConfigError as error:
        answer.send(f"{error.cause}\n{error.hint}".encode())
    finally:
        os._exit(0)


def _unshare() -> list[str]:
    """Into new namespaces; their names."""
    with contextlib.suppress(OSError):  # only root may do it
        libc.unshare(_CLONE_NEWNET)
        return ["net"]
    user, group = os.geteuid(), os.getegid()
    try:
        libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
        # the same ids on both sides: only rights over the network are new
        maps = (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"))
        for name, text in (*maps, ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
    except OSError as error:
        raise ConfigError(
            f"no network namespace for the guests: {error.strerror}",
            "run as root, or allow user namespaces (sysctl user.max_user_namespaces)",
        ) from error
    return ["user", "net"]


def _say_nothing() -> None:
    """Bridge and taps to come have no IPv6 addresses of the host's: else each new one asks all
    guests whether it may, and what wakes a guest is in its figures."""
    with contextlib.suppress(OSError):  # a kernel without IPv6
        fd = os.open("/proc/sys/net/ipv6/conf/default/disable_ipv6", os.O_WRONLY)
        try:
            os.write(fd, b"1")
        finally:
            os.close(fd)


def _add_bridge() -> None:
    """A bridge with an address, and the loopback device, both up."""
    name = BRIDGE.encode()
    mask = socket.inet_ntoa(struct.pack("!I", ~0 << (32 - PREFIX) & 0xFFFF_FFFF))
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            ioctl(control, _SIOCBRADDBR, name + b"\0")
            # else it were that of a port, and changed as guests come and go
            ioctl(control, _SIOCSIFHWADDR, struct.pack("16sH22s", name, _ARPHRD_ETHER, _MAC))
            for request, address in ((_SIOCSIFADDR, ADDRESS), (_SIOCSIFNETMASK, mask)):
                packed = socket.inet_aton(address)
                ioctl(control, request, struct.pack("16sHH4s16x", name, socket.AF_INET, 0, packed))
            interface_up(control, BRIDGE)
            interface_up(control, "lo")
    except OSError as error:
        hint = "load bridge" if error.errno in (errno.ENOPKG, errno.ENOSYS) else ""
        raise ConfigError(f"no bridge for the guests: {error.strerror}", hint) from error
