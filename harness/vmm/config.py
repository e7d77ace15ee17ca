"""The arguments of "create", checked: JSON may put any value into any field."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

from harness.kvm.errors import ConfigError

from .memory import GAP_END, GAP_START

T = TypeVar("T")

_MAX_EVENTFDS = 16
CONSOLES = ("serial", "virtio", "both")
# "auto": by the kernel's PVH note if it has one, else by Linux's 64-bit boot protocol
BOOT_PROTOCOLS = ("auto", "pvh", "linux64")


@dataclass
class DiskConfig:
    """A disk.

    format: "raw" or "qcow2". overlay: a folder for a file that takes the guest's writes and is
    deleted with the guest. backend: "vhost-user" (qemu-storage-daemon), "process" (in this process,
    raw files only), or "auto" for the first of them that is available.
    """

    path: str
    serial: str
    readonly: bool = True
    direct: bool = False
    format: str = "raw"
    overlay: str = ""
    backend: str = "auto"

    @property
    def writable(self) -> bool:
        """Whether the guest can write the disk."""
        return bool(self.overlay) or not self.readonly


@dataclass
class NetworkConfig:
    """A network device.

    mac: "02:00:00:00:00:01". bridge: a bridge of this process's network namespace, which the
    device's tap joins. Without a bridge, passt connects a guest with this address ("10.2.0.2/24")
    and gateway.
    """

    mac: str
    bridge: str = ""
    address: str = ""
    gateway: str = ""


@dataclass
class SegmentConfig:
    """`size` bytes of a file, from `offset` on, to be loaded at a guest-physical address."""

    gpa: int
    path: str
    offset: int
    size: int


@dataclass
class EventfdConfig:
    """An address in the device gap below 4 GiB: a guest's write of 4 bytes signals an eventfd.

    vector: of the interrupt that KVM then injects into the first vCPU; 0 for none.
    """

    address: int
    vector: int = 0


@dataclass
class Config:
    """A machine that boots a kernel, or that runs a payload of flat code.

    memory: MiB. boot: one of BOOT_PROTOCOLS. rng, balloon: whether the machine has the device.
    console: "serial", "virtio" (hvc0, which lacks the kernel's first messages) or "both". mode,
    entry, registers: how the first vCPU starts a payload, see boot.flat. paused: no vCPU runs
    before "resume". pin: the host's CPU of each vCPU; empty for any. exit_limit: the rate of exits
    to user space, per second, that counts as a storm (see exit_storm); 0 for none. sandbox: whether
    the process drops its rights, see harness/agent/sandbox.py. hugepages: memory from the host's
    reserved huge pages. mergeable: the host's KSM may merge memory. pmem: a file that the guest
    sees as persistent memory. testdev: add the devices that kvm-unit-tests need, see
    devices.testdev and devices.fwcfg. eventfds: a payload's own. pv_eoi: the guest may end an
    interrupt without an exit.
    """

    kernel: str = ""
    boot: str = "auto"
    initramfs: str = ""
    cmdline: str = ""
    vcpus: int = 1
    memory: int = 256
    disks: list[DiskConfig] = field(default_factory=list)
    vsock: bool = True
    rng: bool = True
    balloon: bool = True
    console: str = "serial"
    payload: list[SegmentConfig] = field(default_factory=list)
    mode: str = "protected"
    entry: int = 0
    registers: dict[str, int] = field(default_factory=dict)
    paused: bool = False
    pin: list[int] = field(default_factory=list)
    exit_limit: int = 20_000
    sandbox: bool = True
    networks: list[NetworkConfig] = field(default_factory=list)
    pmem: str = ""
    hugepages: bool = False
    mergeable: bool = False
    testdev: bool = False
    eventfds: list[EventfdConfig] = field(default_factory=list)
    pv_eoi: bool = True

    @classmethod
    def parse(cls, arguments: dict[str, Any]) -> Config:
        """Raises ConfigError for a field that is unknown, missing or out of range."""
        config = parse_dataclass(cls, arguments)
        if not 0 < config.memory <= 1 << 20:
            raise ConfigError(f"memory of {config.memory} MiB is out of range", _HINTS["memory"])
        if config.vcpus < 1:
            raise ConfigError(f"{config.vcpus} vCPUs are too few", _HINTS["vcpus"])
        if config.console not in CONSOLES:
            hint = f"choose one of {', '.join(CONSOLES)}"
            raise ConfigError(f"there is no console {config.console!r:.80}", hint)
        if config.boot not in BOOT_PROTOCOLS:
            raise ConfigError(f"there is no boot protocol {config.boot!r:.80}", _HINTS["boot"])
        if bool(config.kernel) == bool(config.payload):
            both = "both a kernel and" if config.kernel else "neither a kernel nor"
            raise ConfigError(f"the configuration has {both} a payload", "pass one of them")
        _check_eventfds(config.eventfds)
        if config.pin and len(config.pin) != config.vcpus:
            cause = f"pin lists {len(config.pin)} CPUs for {config.vcpus} vCPUs"
            raise ConfigError(cause, "list one CPU for each vCPU")
        return config


def _check_eventfds(eventfds: list[EventfdConfig]) -> None:
    for one in eventfds:
        if one.address % 4 or not GAP_START <= one.address < GAP_END:
            raise ConfigError(
                f"an eventfd at {one.address:#x} is outside the device gap, or misaligned",
                _HINTS["eventfds"],
            )
        if one.vector and not 16 <= one.vector <= 255:
            raise ConfigError(f"an eventfd's vector {one.vector} is out of range", _HINTS["vector"])
    addresses = [one.address for one in eventfds]
    if len(set(addresses)) != len(addresses) or len(addresses) > _MAX_EVENTFDS:
        raise ConfigError(
            f"{len(addresses)} eventfds are too many, or share an address", _HINTS["eventfds"]
        )


_CHOICES = {"format": ("raw", "qcow2"), "backend": ("auto", "vhost-user", "process")}
_HINTS = {
    "memory": "request 64 MiB or more",
    "vcpus": "request at least 1",
    "eventfds": f"use up to {_MAX_EVENTFDS} different multiples of 4 from {GAP_START:#x} on",
    "vector": "use 16 to 255, or 0 for none",
    "boot": f"choose one of {', '.join(BOOT_PROTOCOLS)}",
}
_DATACLASSES: dict[str, type] = {
    one.__name__: one for one in (DiskConfig, EventfdConfig, NetworkConfig, SegmentConfig)
}


def parse_dataclass(cls: type[T], arguments: Any) -> T:
    """A dataclass from a JSON object; lists of dataclasses in it are parsed, too. Raises
    ConfigError for a field that is unknown, missing or of another type."""
    assert is_dataclass(cls)
    try:
        config = cls(**arguments)
    except TypeError as error:
        raise ConfigError(f"configuration: {error}") from error
    for item in fields(cls):
        value, kind = getattr(config, item.name), str(item.type)
        if kind.startswith("list["):
            if not isinstance(value, list):
                raise ConfigError(f"configuration: {item.name} is no list: {value!r:.80}")
            inner = kind[5:-1]
            setattr(config, item.name, [_check_value(item.name, inner, one) for one in value])
        elif kind.startswith("dict[str, "):
            inner = kind[len("dict[str, ") : -1]
            for key, one in _check_value(item.name, "dict", value).items():
                _check_value(item.name, "str", key)
                if inner != "Any":
                    _check_value(item.name, inner, one)
        else:
            setattr(config, item.name, _check_value(item.name, kind, value))
    return config


def _check_value(name: str, kind: str, value: Any) -> Any:
    """The value, if it has exactly that type: open() would take a number for a descriptor."""
    if kind in _DATACLASSES:
        cls = _DATACLASSES[kind]
        return value if isinstance(value, cls) else parse_dataclass(cls, value)
    required = {"str": str, "int": int, "bool": bool, "dict": dict}[kind.partition("[")[0]]
    if type(value) is not required:
        cause = f"configuration: {name} is no {kind}: {value!r:.80}"
        raise ConfigError(cause, _HINTS.get(name, ""))
    if isinstance(value, str):
        try:
            usable = b"\0" not in os.fsencode(value)
        except UnicodeEncodeError:
            usable = False
        if not usable:
            raise ConfigError(f"configuration: {name} is no usable text: {value!r:.80}")
        if name in _CHOICES and value not in _CHOICES[name]:
            hint = f"choose {' or '.join(_CHOICES[name])}"
            raise ConfigError(f"configuration: {name} cannot be {value!r:.80}", hint)
    return value
