"""The baseline without a machine: a guest's image in a container on the host's kernel.

The container has a guest's initramfs and root disk in its own namespaces (mounts, processes, host
name, network). So measurements differ from a guest's only by the machine. It is no security
boundary: its root is the host's root.
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
from .external_program import ExternalProgram
from .process import die_with_parent
from .sandbox import drop_capabilities

_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWPID, _CLONE_NEWNET = (
    0x0002_0000, 0x0400_0000, 0x2000_0000, 0x4000_0000,
)  # fmt: skip
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
# CAP_SYS_MODULE, CAP_SYS_RAWIO, CAP_SYS_TIME: they change the host's kernel, hardware and clock
_HOST_CAPABILITIES = (16, 17, 25)

_ROOT = "/mnt"  # the container's root while it is assembled, in its own mount namespace
_CMDLINE = "harness/cmdline"  # tells init that it is in a container (images/guest/boot.c)
_DEVICES = {"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9}  # minors of major 1
_TERMINALS = {"tty": 0, "ptmx": 2}  # of major 5
_HEADER = 110  # bytes in front of a name in a newc archive
# reboot(2) in a PID namespace ends its init by a signal that depends on the command
_EXIT_REASONS = {-signal.SIGINT: "power-off", -signal.SIGHUP: "reset"}


@dataclass
class ContainerConfig:
    """The arguments of "create_container".

    initramfs, root: paths of a guest image's files. cmdline: init reads it as the kernel's command
    line. bridge, mac: of its network device. disks: raw files or devices, named by their serials.
    """

    initramfs: str
    root: str
    cmdline: str
    bridge: str
    mac: str
    disks: list[DiskConfig] = field(default_factory=list)

    @classmethod
    def parse(cls, arguments: dict[str, Any]) -> ContainerConfig:
        """Raises ConfigError."""
        return parse_dataclass(cls, arguments)


def start_container(config: ContainerConfig, channel: Channel) -> ExternalProgram:
    """Start a container. The caller has entered the network of its bridge. Raises ConfigError."""
    if os.geteuid():
        raise ConfigError(
            "a native guest is a container, which only root can create",
            "run as root, or use --virt-host=emulated",
        )
    error_read, error_write = os.pipe()

    def enter() -> None:
        die_with_parent(0)  # its parent has no pid in this PID namespace
        os.setpgid(0, 0)
        try:
            _enter_container(config)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            os.write(error_write, str(error).encode())
            raise

    own_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY)
    try:
        libc.unshare(_CLONE_NEWPID)  # the next child is the init of the new namespace
        process = subprocess.Popen(
            ["/init"],
            env={},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=enter,  # noqa: PLW1509 (single-threaded here)
        )
    except (OSError, subprocess.SubprocessError) as error:
        os.close(error_write)
        cause = os.read(error_read, 4096).decode() or str(error)
        hint = "check that this kernel has namespaces and loop devices, or use --virt-host=emulated"
        raise ConfigError(f"no container on this host: {cause}", hint) from error
    finally:
        with contextlib.suppress(OSError):
            libc.setns(own_namespace, _CLONE_NEWPID)  # otherwise this process cannot start threads
        os.close(own_namespace)
        os.close(error_read)
    os.close(error_write)
    port = f"c{process.pid}"
    try:
        _add_interface(config, process.pid, port)
    except ConfigError:
        process.kill()
        process.wait()
        raise
    facts = {"vmm": "none", "sandbox": [], "port": port}
    return ExternalProgram(channel, process, facts, exit_reasons=_EXIT_REASONS)


def _enter_container(config: ContainerConfig) -> None:
    """In the container's first process: create its other namespaces, its mounts and devices."""
    libc.unshare(_CLONE_NEWNS | _CLONE_NEWUTS | _CLONE_NEWNET)
    libc.mount("none", "/", flags=_MS_REC | _MS_PRIVATE)
    libc.mount("tmpfs", _ROOT, "tmpfs", data="mode=0755")
    with open(config.initramfs, "rb") as file:
        for name, mode, data in members(file.read()):
            _unpack(os.path.join(_ROOT, name), mode, data)
    root = os.path.join(_ROOT, "newroot")
    if stat.S_ISBLK(os.stat(config.root).st_mode):
        libc.mount(config.root, root, "ext4", _MS_RDONLY)
    else:
        argv = ["mount", "-t", "ext4", "-o", "loop,ro", config.root, root]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(done.stderr.strip())
    _add_devices(os.path.join(_ROOT, "dev"), config.disks)
    proc = os.path.join(_ROOT, "proc")
    libc.mount("proc", proc, "proc")
    # a test that crashes its guest must not crash the host or change its settings
    libc.mount(os.path.join(_ROOT, "dev/null"), os.path.join(proc, "sysrq-trigger"), flags=_MS_BIND)
    libc.mount(os.path.join(proc, "sys"), os.path.join(proc, "sys"), flags=_MS_BIND)
    libc.mount("none", os.path.join(proc, "sys"), flags=_MS_BIND | _MS_REMOUNT | _MS_RDONLY)
    libc.mount("sysfs", os.path.join(_ROOT, "sys"), "sysfs", _MS_RDONLY)
    cmdline = os.path.join(_ROOT, _CMDLINE)
    with open(cmdline, "w", encoding="utf-8") as file:
        file.write(f"{config.cmdline}\n")
    libc.mount(cmdline, os.path.join(proc, "cmdline"), flags=_MS_BIND)
    os.chroot(_ROOT)
    os.chdir("/")
    try:
        drop_capabilities(_HOST_CAPABILITIES)
    except OSError as error:
        raise OSError(error.errno, f"capabilities: {error.strerror}") from error


def members(archive: bytes) -> Iterator[tuple[str, int, bytes]]:
    """Names, modes and contents in concatenated newc archives.

    Format: Documentation/driver-api/early-userspace/buffer-format.rst. Raises ValueError.
    """
    at = 0
    while at + _HEADER <= len(archive):
        if not archive.startswith(b"070701", at):
            if archive[at] == 0:  # padding between archives
                at += 4
                continue
            raise ValueError("the initramfs is not an uncompressed newc archive")
        mode, size, length = (int(archive[at + of : at + of + 8], 16) for of in (14, 54, 94))
        start = at + _HEADER + length
        name = archive[at + _HEADER : start - 1].decode().lstrip("/")
        if ".." in name.split("/"):
            raise ValueError(f"the initramfs has a member {name!r:.80}")
        start = -(-start // 4) * 4
        if start + size > len(archive):
            raise ValueError("the initramfs is truncated")
        if name != "TRAILER!!!":
            yield name, mode, archive[start : start + size]
        at = -(-(start + size) // 4) * 4


def _unpack(path: str, mode: int, data: bytes) -> None:
    """Write a member that is a folder or a file; _add_devices() creates device nodes."""
    if stat.S_ISDIR(mode):
        os.makedirs(path, stat.S_IMODE(mode), exist_ok=True)
    elif stat.S_ISREG(mode) and not path.endswith(".ko"):
        with open(path, "wb", opener=lambda name, how: os.open(name, how, mode)) as file:
            file.write(data)


def _add_devices(folder: str, disks: list[DiskConfig]) -> None:
    os.umask(0)  # the container's init sets another one
    libc.mount("tmpfs", folder, "tmpfs", data="mode=0755")
    for major, nodes in ((1, _DEVICES), (5, _TERMINALS)):
        for name, minor in nodes.items():
            path = os.path.join(folder, name)
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(major, minor))
    by_serial = os.path.join(folder, "disk", "by-serial")
    os.makedirs(by_serial)
    for disk in disks:
        path = os.path.join(by_serial, disk.serial)
        with open(path, "xb"):
            pass
        libc.mount(disk.path, path, flags=_MS_BIND)
        if not disk.writable:
            libc.mount("none", path, flags=_MS_BIND | _MS_REMOUNT | _MS_RDONLY)


def _add_interface(config: ContainerConfig, pid: int, port: str) -> None:
    """Create a veth pair: one end is a port of the bridge, one is eth0. Raises ConfigError."""
    container_end = ["peer", "name", "eth0", "address", config.mac, "netns", str(pid)]
    for argv in (
        ["ip", "link", "add", port, "type", "veth", *container_end],
        ["ip", "link", "set", port, "master", config.bridge, "up"],
    ):
        try:
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
        except OSError as error:
            raise ConfigError(f"ip: {error.strerror}", "install iproute2 on the host") from error
        if done.returncode:
            cause = f"no network for the container: {done.stderr.strip()}"
            missing = "Unknown device" in cause
            hint = "load the module veth" if missing else "check the bridge on the host: ip link"
            raise ConfigError(cause, hint)
