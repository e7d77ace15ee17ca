"""A peer VMM (QEMU): a program with descriptors for its disks and its network."""

from __future__ import annotations

import functools
import os
import subprocess
from dataclasses import dataclass, field
from typing import Any

from harness.kvm.errors import ConfigError
from harness.vmm.config import DiskConfig, record
from harness.vmm.devices.virtio.vhost import open_vhost

from .control import Channel
from .monitor import Monitor
from .process import bound_to_us
from .program import Program
from .storage_daemon import StorageDaemon
from .tap import open_tap


@dataclass
class PeerConfig:
    """A peer VMM. argv: its command line; "{disk0}" in it is the descriptor of a socket to the
    first of `disks`, which qemu-storage-daemon serves. "{monitor}" is a socket for its QMP, and
    "{memory}" an empty memory file. bridge: what its tap joins: "{tap}" and "{vhost}" are the
    descriptors."""

    argv: list[str]
    disks: list[DiskConfig] = field(default_factory=list)
    bridge: str = ""

    @classmethod
    def parse(cls, given: dict[str, Any]) -> PeerConfig:
        """Raises ConfigError."""
        config = record(cls, given)
        if not config.argv:
            raise ConfigError("exec needs argv, a list of strings")
        return config


def start_peer(config: PeerConfig, channel: Channel, memory: int) -> Program:
    """In the network of config.bridge, if there is one. memory: the file. Raises ConfigError."""
    storage = StorageDaemon(config.disks) if config.disks else None
    fds = [one.fileno() for one in storage.sockets] if storage else []
    places = {f"{{disk{number}}}": str(fd) for number, fd in enumerate(fds)}
    fds.append(memory)
    places["{memory}"] = str(memory)
    monitor = Monitor(channel) if any("{monitor}" in word for word in config.argv) else None
    if monitor:
        fds.append(monitor.theirs.detach())
        places["{monitor}"] = str(fds[-1])
    if config.bridge:
        tap, vhost = open_tap(config.bridge), open_vhost("vhost-net")
        fds += tap, vhost
        places |= {"{tap}": str(tap), "{vhost}": str(vhost)}
    argv = [
        functools.reduce(lambda word, place: word.replace(*place), places.items(), word)
        for word in config.argv
    ]
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=fds,
            preexec_fn=bound_to_us(),  # noqa: PLW1509 (single-threaded here)
        )
    except OSError as error:
        raise ConfigError(f"{argv[0]}: {error.strerror}", "install it on the host") from error
    finally:
        for fd in fds:
            os.close(fd)
    facts = {"vmm": os.path.basename(argv[0]), "sandbox": ["no new privileges"]}
    return Program(channel, process, facts, storage=storage, monitor=monitor)
