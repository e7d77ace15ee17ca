"""The guests' private network: a bridge in its own network namespace, without a route outside.

The namespace has no name. Descriptors of the supervisor and the guests' processes keep it alive;
the kernel removes it with bridge and taps when these processes end. Without root it belongs to a
user namespace of the same user (user_namespaces(7)).
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

# linux/sockios.h; the argument is a struct ifreq: name, then a union of 24 bytes
_SIOCBRADDBR = 0x89A0
_SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCSIFHWADDR = 0x8916, 0x891C, 0x8924
_ARPHRD_ETHER = 1


class Network:
    """The network of one supervisor, created by the first call of `facts`.

    The supervisor itself stays in the host's namespace; its forks call `enter`.
    """

    def __init__(self) -> None:
        self._fds: dict[str, int] = {}  # namespace ("user", "net") to descriptor

    def facts(self) -> dict[str, Any]:
        """Bridge, address and paths of the namespaces (/proc/PID/fd/N). Raises ConfigError."""
        if not self._fds:
            self._fds = _create_namespaces()
        paths = {name: f"/proc/{os.getpid()}/fd/{fd}" for name, fd in self._fds.items()}
        return {"bridge": BRIDGE, "address": ADDRESS, "prefix": PREFIX, "namespaces": paths}

    def enter(self) -> None:
        """Move the calling process, which must have one thread. Raises ConfigError, OSError."""
        if not self._fds:  # a bridge of that name in this namespace would be the host's
            raise ConfigError("the guests' network does not exist", 'request "connectivity" first')
        for fd in self._fds.values():  # the user namespace first: it permits the other
            libc.setns(fd)

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds = {}


def _create_namespaces() -> dict[str, int]:
    """A short-lived child creates the namespaces: a process cannot leave a user namespace."""
    parent_end, child_end = socket.socketpair()
    with parent_end:
        pid = os.fork()
        if pid == 0:
            _send_namespaces(child_end)
        child_end.close()
        error, fds, _, _ = socket.recv_fds(parent_end, 4096, 2, socket.MSG_CMSG_CLOEXEC)
        os.waitpid(pid, 0)
    if error != b"ok":
        cause, _, hint = error.decode().partition("\n")
        raise ConfigError(cause or "the process that creates the network ended", hint)
    return dict(zip(("user", "net")[-len(fds) :], fds))


def _send_namespaces(answer: socket.socket) -> NoReturn:
    try:
        names = _unshare()
        _disable_ipv6()
        _add_bridge()
        fds = [os.open(f"/proc/self/ns/{name}", os.O_RDONLY) for name in names]
        socket.send_fds(answer, [b"ok"], fds)
    except ConfigError as error:
        answer.send(f"{error.cause}\n{error.hint}".encode())
    finally:
        os._exit(0)


def _unshare() -> list[str]:
    """Enter new namespaces; returns their names."""
    with contextlib.suppress(OSError):  # permitted to root only
        libc.unshare(_CLONE_NEWNET)
        return ["net"]
    user, group = os.geteuid(), os.getegid()
    try:
        libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
        # equal ids on both sides: the process gains rights over its network only
        maps = (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"))
        for name, text in (*maps, ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
    except OSError as error:
        raise ConfigError(
            f"no network namespace for the guests: {error.strerror}",
            "run as root, or permit user namespaces (sysctl user.max_user_namespaces)",
        ) from error
    return ["user", "net"]


def _disable_ipv6() -> None:
    """No IPv6 addresses for the bridge and taps of this namespace.

    Each new address would send duplicate address detection to all guests. The packets wake guests,
    and that shows in measurements.
    """
    with contextlib.suppress(OSError):  # a kernel without IPv6
        fd = os.open("/proc/sys/net/ipv6/conf/default/disable_ipv6", os.O_WRONLY)
        try:
            os.write(fd, b"1")
        finally:
            os.close(fd)


def _add_bridge() -> None:
    """Create the bridge with its address; bring bridge and loopback up."""
    name = BRIDGE.encode()
    mask = socket.inet_ntoa(struct.pack("!I", ~0 << (32 - PREFIX) & 0xFFFF_FFFF))
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            ioctl(control, _SIOCBRADDBR, name + b"\0")
            # without its own, the bridge takes a port's address, which changes with the guests
            ioctl(control, _SIOCSIFHWADDR, struct.pack("16sH22s", name, _ARPHRD_ETHER, _MAC))
            for request, address in ((_SIOCSIFADDR, ADDRESS), (_SIOCSIFNETMASK, mask)):
                packed = socket.inet_aton(address)
                ioctl(control, request, struct.pack("16sHH4s16x", name, socket.AF_INET, 0, packed))
            interface_up(control, BRIDGE)
            interface_up(control, "lo")
    except OSError as error:
        missing = error.errno in (errno.ENOPKG, errno.ENOSYS)
        hint = "load the module bridge" if missing else "run as root, or use --virt-host=emulated"
        raise ConfigError(f"no bridge for the guests: {error.strerror}", hint) from error
