"""The baseline: what a guest boots, without a machine, on the host's own kernel.

The same initramfs and root disk as a guest's, in namespaces of their own (mounts, processes, host
name, network), so that what is measured differs by the machine alone. It isolates nothing: root in
it is root of the host.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from harness.kvm import libc
from harness.kvm.errors import ConfigError
from harness.vmm.config import DiskConfig, parse_dataclass

from .control import Channel
from .process import die_with
from .program import Program
from .sandbox import withhold

_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWPID, _CLONE_NEWNET = (
    0x0002_0000, 0x0400_0000, 0x2000_0000, 0x4000_0000,
)  # fmt: skip
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
# CAP_SYS_MODULE, CAP_SYS_RAWIO, CAP_SYS_TIME: the kernel, the hardware and the clock are the host's
_NOT_ITS_OWN = (16, 17, 25)

_AT = "/mnt"  # where it is put together, in its own mount namespace
_TOLD = "harness/cmdline"  # its init looks for this file (images/guest/boot.c)
_DEVICES = {"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9}  # minors of major 1
_TERMINALS = {"tty": 0, "ptmx": 2}  # of major 5
_HEADER = 110  # bytes before a name in a newc archive
# reboot(2) in a PID namespace: its init ends by a signal that says what was asked for
_ENDS = {-signal.SIGINT: "power-off", -signal.SIGHUP: "reset"}


@dataclass
class ContainerConfig:
    """initramfs, root: of a guest image. cmdline: what its init takes for the kernel's. bridge:
    what its network joins, with that mac. disks: raw files or devices, by their serials."""

    initramfs: str
    root: str
    cmdline: str
    bridge: str
    mac: str
    disks: list[DiskConfig] = field(default_factory=list)

    @classmethod
    def parse(cls, given: dict[str, Any]) -> ContainerConfig:
        """Raises ConfigError."""
        return parse_dataclass(cls, given)


def start_container(config: ContainerConfig, channel: Channel) -> Program:
    """In the namespace of its bridge. Raises ConfigError."""
    if os.geteuid():
        raise ConfigError(
            "a native guest is a container with mounts of its own, which only root may make",
            "run as root, or take --virt-host=emulated",
        )
    told, tell = os.pipe()

    def enter() -> None:
        die_with(0)  # its parent is outside of its PID namespace
        os.setpgid(0, 0)
        try:
            _enter(config)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            os.write(tell, str(error).encode())
            raise

    own = os.open("/proc/self/ns/pid", os.O_RDONLY)
    try:
        libc.unshare(_CLONE_NEWPID)  # the next child is its init
        process = subprocess.Popen(
            ["/init"],
            env={},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=enter,  # noqa: PLW1509 (single-threaded here)
        )
    except (OSError, subprocess.SubprocessError) as error:
        os.close(tell)
        cause = os.read(told, 4096).decode() or str(error)
        raise ConfigError(f"no container on this host: {cause}") from error
    finally:
        with contextlib.suppress(OSError):
            libc.setns(own, _CLONE_NEWPID)  # who has children elsewhere gets no more threads
        os.close(own)
        os.close(told)
    os.close(tell)
    try:
        _link(config, process.pid)
    except ConfigError:
        process.kill()
        process.wait()
        raise
    return Program(channel, process, {"vmm": "none", "sandbox": []}, ends=_ENDS)


def _enter(config: ContainerConfig) -> None:
    """In the child, which is its first process: make its namespaces, and go into them."""
    libc.unshare(_CLONE_NEWNS | _CLONE_NEWUTS | _CLONE_NEWNET)
    libc.mount("none", "/", flags=_MS_REC | _MS_PRIVATE)
    libc.mount("tmpfs", _AT, "tmpfs", data="mode=0755")
    with open(config.initramfs, "rb") as file:
        for name, mode, data in members(file.read()):
            _unpack(os.path.join(_AT, name), mode, data)
    root = os.path.join(_AT, "newroot")
    if stat.S_ISBLK(os.stat(config.root).st_mode):
        libc.mount(config.root, root, "ext4", _MS_RDONLY)
    else:
        how = ["mount", "-t", "ext4", "-o", "loop,ro", config.root, root]
        done = subprocess.run(how, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(done.stderr.strip())
    _devices(os.path.join(_AT, "dev"), config.disks)
    proc = os.path.join(_AT, "proc")
    libc.mount("proc", proc, "proc")
    # a test that crashes its guest is not to crash the host, nor to set what is the host's
    libc.mount(os.path.join(_AT, "dev/null"), os.path.join(proc, "sysrq-trigger"), flags=_MS_BIND)
    libc.mount(os.path.join(proc, "sys"), os.path.join(proc, "sys"), flags=_MS_BIND)
    libc.mount("none", os.path.join(proc, "sys"), flags=_MS_BIND | _MS_REMOUNT | _MS_RDONLY)
    libc.mount("sysfs", os.path.join(_AT, "sys"), "sysfs", _MS_RDONLY)
    told = os.path.join(_AT, _TOLD)
    with open(told, "w", encoding="utf-8") as file:
        file.write(f"{config.cmdline}\n")
    libc.mount(told, os.path.join(proc, "cmdline"), flags=_MS_BIND)
    os.chroot(_AT)
    os.chdir("/")
    try:
        withhold(_NOT_ITS_OWN)
    except OSError as error:
        raise OSError(error.errno, f"capabilities: {error.strerror}") from error


def members(archive: bytes) -> Iterator[tuple[str, int, bytes]]:
    """Names, modes and contents of newc archives one after the other, as the kernel takes them
    (Documentation/driver-api/early-userspace/buffer-format.rst). Raises ValueError."""
    at = 0
    while at + _HEADER <= len(archive):
        if not archive.startswith(b"070701", at):
            if archive[at] == 0:  # padding between archives
                at += 4
                continue
            raise ValueError("the initramfs is no uncompressed newc archive")
        mode, size, length = (int(archive[at + of : at + of + 8], 16) for of in (14, 54, 94))
        start = at + _HEADER + length
        name = archive[at + _HEADER : start - 1].decode().lstrip("/")
        if ".." in name.split("/"):
            raise ValueError(f"the initramfs has a member {name!r:.80}")
        start = -(-start // 4) * 4
        if start + size > len(archive):
            raise ValueError("the initramfs is cut off")
        if name != "TRAILER!!!":
            yield name, mode, archive[start : start + size]
        at = -(-(start + size) // 4) * 4


def _unpack(path: str, mode: int, data: bytes) -> None:
    """One member, but for device nodes: those are made for all."""
    if stat.S_ISDIR(mode):
        os.makedirs(path, stat.S_IMODE(mode), exist_ok=True)
    elif stat.S_ISREG(mode) and not path.endswith(".ko"):
        with open(path, "wb", opener=lambda name, how: os.open(name, how, mode)) as file:
            file.write(data)


def _devices(folder: str, disks: list[DiskConfig]) -> None:
    os.umask(0)  # its init sets its own
    libc.mount("tmpfs", folder, "tmpfs", data="mode=0755")
    for major, nodes in ((1, _DEVICES), (5, _TERMINALS)):
        for name, minor in nodes.items():
            path = os.path.join(folder, name)
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(major, minor))
    places = os.path.join(folder, "disk", "by-serial")
    os.makedirs(places)
    for disk in disks:
        place = os.path.join(places, disk.serial)
        with open(place, "xb"):
            pass
        libc.mount(disk.path, place, flags=_MS_BIND)
        if not disk.writable:
            libc.mount("none", place, flags=_MS_BIND | _MS_REMOUNT | _MS_RDONLY)


def _link(config: ContainerConfig, pid: int) -> None:
    """A pair of network devices: one on the bridge, one that is its eth0. Raises ConfigError."""
    ours = f"c{pid}"
    peer = ["peer", "name", "eth0", "address", config.mac, "netns", str(pid)]
    for argv in (
        ["ip", "link", "add", ours, "type", "veth", *peer],
        ["ip", "link", "set", ours, "master", config.bridge, "up"],
    ):
        try:
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
        except OSError as error:
            raise ConfigError(f"ip: {error.strerror}", "install iproute2 on the host") from error
        if done.returncode:
            cause = f"no network for the container: {done.stderr.strip()}"
            raise ConfigError(cause, "modprobe veth" if "Unknown device" in cause else "")
