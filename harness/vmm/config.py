"""What "create" asks for, checked: JSON may have put anything into any field."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

from harness.kvm.errors import ConfigError

from .memory import GAP_END, GAP_START

T = TypeVar("T")

_EVENTFDS = 16
CONSOLES = ("serial", "virtio", "both")
# how a kernel is entered: by the first way that it has, its PVH note, Linux's 64-bit protocol
BOOT_WAYS = ("auto", "pvh", "linux64")


@dataclass
class DiskConfig:
    """format: "raw" or "qcow2". overlay: a folder; the guest's writes go to a file in it that ends
    with the guest. backend: "vhost-user" (qemu-storage-daemon), "process" (raw files only), or
    "auto" for the first that can be had."""

    path: str
    serial: str
    readonly: bool = True
    direct: bool = False
    format: str = "raw"
    overlay: str = ""
    backend: str = "auto"

    @property
    def writable(self) -> bool:
        """As the guest sees it."""
        return bool(self.overlay) or not self.readonly


@dataclass
class NetworkConfig:
    """A network device. mac: "02:00:00:00:00:01". bridge: the one that its tap joins, of this
    process's network namespace; without it passt serves a guest with that address, "10.2.0.2/24",
    and gateway."""

    mac: str
    bridge: str = ""
    address: str = ""
    gateway: str = ""


@dataclass
class SegmentConfig:
    """`size` bytes of a file, from `offset` on, that belong at a guest-physical address."""

    gpa: int
    path: str
    offset: int
    size: int


@dataclass
class EventfdConfig:
    """An address below 4 GiB, where devices are, at which a write of 4 bytes goes to an eventfd.
    vector: of the interrupt that KVM makes of it for the first vCPU; 0: nobody reads it."""

    address: int
    vector: int = 0


@dataclass
class Config:
    """A machine that boots a kernel, or runs a payload: flat code, without any of that.

    memory: MiB. boot: one of BOOT_WAYS. rng, balloon: whether there is such a device. console: the
    serial port alone, "virtio" (hvc0 alone: the kernel's first messages are lost) or "both". mode,
    entry, registers: how the first vCPU starts a payload (see boot.flat). paused: no vCPU runs
    before "resume". pin: the host's CPU for each vCPU, or none at all. exit_limit: exits to user
    space a second that are a storm (see watch); 0: there is none. sandbox: whether its process
    drops its rights (see harness/agent/sandbox.py).
    hugepages: memory of the host's reserve. mergeable: by the host's KSM. pmem: a file that the
    guest sees as persistent memory. testdev: with the devices that kvm-unit-tests need (see
    devices.testdev, devices.fwcfg). eventfds: of a payload's own. pv_eoi: whether an end of
    interrupt may cost no exit.
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
    def parse(cls, given: dict[str, Any]) -> Config:
        """Raises ConfigError for fields that are unknown, missing or cannot be."""
        config = record(cls, given)
        if not 0 < config.memory <= 1 << 20:
            raise ConfigError(f"memory of {config.memory} MiB", _MENDS["memory"])
        if config.vcpus < 1:
            raise ConfigError(f"{config.vcpus} vCPUs", _MENDS["vcpus"])
        if config.console not in CONSOLES:
            raise ConfigError(f"a console of {config.console!r:.80}", f"take one of {CONSOLES}")
        if config.boot not in BOOT_WAYS:
            raise ConfigError(f"no way to boot: {config.boot!r:.80}", _MENDS["boot"])
        if bool(config.kernel) == bool(config.payload):
            both = "both a kernel and" if config.kernel else "neither a kernel nor"
            raise ConfigError(f"configuration: {both} a payload", "give one of them")
        for one in config.eventfds:
            if one.address % 4 or not GAP_START <= one.address < GAP_END:
                raise ConfigError(f"an eventfd at {one.address:#x}", _MENDS["eventfds"])
            if one.vector and not 16 <= one.vector <= 255:
                raise ConfigError(f"an eventfd's vector {one.vector}", _MENDS["vector"])
        addresses = [one.address for one in config.eventfds]
        if len(set(addresses)) != len(addresses) or len(addresses) > _EVENTFDS:
            raise ConfigError(f"{len(addresses)} eventfds", _MENDS["eventfds"])
        if config.pin and len(config.pin) != config.vcpus:
            cause = f"{len(config.pin)} CPUs to pin {config.vcpus} vCPUs to"
            raise ConfigError(cause, "give one for each")
        return config


_WORDS = {"format": ("raw", "qcow2"), "backend": ("auto", "vhost-user", "process")}
_MENDS = {
    "memory": "give 64 MiB or more",
    "vcpus": "give at least 1",
    "eventfds": f"give up to {_EVENTFDS} different multiples of 4 from {GAP_START:#x} on",
    "vector": "give 16 to 255, or 0 for none",
    "boot": f"choose one of {', '.join(BOOT_WAYS)}",
}
_RECORDS: dict[str, type] = {
    one.__name__: one for one in (DiskConfig, EventfdConfig, NetworkConfig, SegmentConfig)
}


def record(cls: type[T], given: Any) -> T:
    """A dataclass made of a JSON object, lists of dataclasses in it included."""
    assert is_dataclass(cls)
    try:
        made = cls(**given)
    except TypeError as error:
        raise ConfigError(f"configuration: {error}") from error
    for item in fields(cls):
        value, kind = getattr(made, item.name), str(item.type)
        if kind.startswith("list["):
            if not isinstance(value, list):
                raise ConfigError(f"configuration: {item.name} is no list: {value!r:.80}")
            inner = kind[5:-1]
            setattr(made, item.name, [_value(item.name, inner, one) for one in value])
        elif kind.startswith("dict[str, "):
            inner = kind[len("dict[str, ") : -1]
            for key, one in _value(item.name, "dict", value).items():
                _value(item.name, "str", key)
                _value(item.name, inner, one)
        else:
            setattr(made, item.name, _value(item.name, kind, value))
    return made


def _value(name: str, kind: str, value: Any) -> Any:
    """Checked: a number as a path would open a descriptor."""
    if kind in _RECORDS:
        return value if isinstance(value, _RECORDS[kind]) else record(_RECORDS[kind], value)
    wanted = {"str": str, "int": int, "bool": bool, "dict": dict}[kind.partition("[")[0]]
    if type(value) is not wanted:
        cause = f"configuration: {name} is no {kind}: {value!r:.80}"
        raise ConfigError(cause, _MENDS.get(name, ""))
    if isinstance(value, str):
        try:
            usable = b"\0" not in os.fsencode(value)
        except UnicodeEncodeError:
            usable = False
        if not usable:
            raise ConfigError(f"configuration: {name} is no usable text: {value!r:.80}")
        if name in _WORDS and value not in _WORDS[name]:
            hint = f"give {' or '.join(_WORDS[name])}"
            raise ConfigError(f"configuration: {name} {value!r:.80}", hint)
    return value
