"""Taps: the host's end of a guest's network device (Documentation/networking/tuntap.rst)."""

from __future__ import annotations

import os
import socket
import struct
from fcntl import ioctl

from harness.kvm.errors import ConfigError
from harness.vmm.devices.virtio.net import HEADER

_TUNSETIFF, _TUNSETVNETHDRSZ, _TUNGETIFF = 0x4004_54CA, 0x4004_54D8, 0x8004_54D2
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCGIFINDEX, _SIOCBRADDIF = 0x8913, 0x8914, 0x8933, 0x89A2
_IFF_UP = 1
_IFREQ_FLAGS = struct.Struct("16sH22x")
_IFREQ_INDEX = struct.Struct("16si20x")


def open_tap(bridge: str) -> int:
    """Create a tap as a port of a bridge in this process's network namespace.

    Returns its descriptor; closing it removes the tap. Raises ConfigError.
    """
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        hint = "load the module tun, and give the user access to /dev/net/tun"
        raise ConfigError(f"/dev/net/tun: {error.strerror}", hint) from error
    try:
        request = _IFREQ_FLAGS.pack(b"tap%d", _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)
        ioctl(fd, _TUNSETIFF, request)
        name = tap_name(fd)
        ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("i", HEADER))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            index = _IFREQ_INDEX.unpack(
                ioctl(control, _SIOCGIFINDEX, _IFREQ_INDEX.pack(name.encode(), 0))
            )[1]
            ioctl(control, _SIOCBRADDIF, _IFREQ_INDEX.pack(bridge.encode(), index))
            interface_up(control, name)
    except OSError as error:
        os.close(fd)
        hint = "check that the bridge exists, and that the limit of open files is not reached"
        raise ConfigError(f"no tap on bridge {bridge!r}: {error.strerror}", hint) from error
    return fd


def tap_name(fd: int) -> str:
    """The name of a tap's interface. fd: its descriptor. Raises OSError."""
    return ioctl(fd, _TUNGETIFF, bytes(_IFREQ_FLAGS.size))[:16].rstrip(b"\0").decode()


def interface_up(control: socket.socket, name: str) -> None:
    """Set IFF_UP. control: any socket. Raises OSError."""
    request = _IFREQ_FLAGS.pack(name.encode(), 0)
    (_, flags) = _IFREQ_FLAGS.unpack(ioctl(control, _SIOCGIFFLAGS, request))
    ioctl(control, _SIOCSIFFLAGS, _IFREQ_FLAGS.pack(name.encode(), flags | _IFF_UP))
