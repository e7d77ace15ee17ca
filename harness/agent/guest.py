"""A guest's process, from fork to exit: what it runs is made here, confined, and driven."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import traceback
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, NoReturn

from harness.kvm.errors import ConfigError
from harness.vmm.config import Config
from harness.vmm.machine import Machine
from harness.vmm.snapshot import Snapshot
from harness.vmm.virtio_devices import HostResources

from . import sandbox
from .cgroup import Cgroups
from .container import ContainerConfig, start_container
from .control import Channel
from .directories import Directories
from .init_requests import RestoreConfig, assign_identity
from .network import Network
from .operations import serve
from .passt import PasstProcess
from .peer import PeerConfig, start_peer
from .program import Program
from .storage_daemon import start_daemon
from .tap import open_tap


@dataclass(frozen=True)
class SharedResources:
    """What all guests of a supervisor share."""

    cgroups: Cgroups
    network: Network
    directories: Directories


def run_guest(
    guest: str,
    connection: socket.socket,
    request: dict[str, Any],
    shared: SharedResources,
    *,
    memory: int,
) -> NoReturn:
    """The guest's process, from fork to exit. memory: an empty file for its memory, should it be
    one that others map, too."""
    status = 1
    channel, identifier = Channel(guest, connection), request.get("id")

    def refuse(cause: str, hint: str, reason: str, detail: str) -> None:
        channel.send({"id": identifier, "error": {"cause": cause, "hint": hint}})
        channel.event("end", reason=reason, detail=detail, time_ns=time.monotonic_ns())

    try:
        arguments = request.get("arguments", {})
        try:
            cgroup = shared.cgroups.enter(guest, request.get("limits") or {})
            machine, identity = _machine(request["op"], arguments, channel, shared, memory)
        except ConfigError as error:
            refuse(error.cause, error.hint, "refused", error.cause)
        except OSError as error:
            refuse(f"KVM: {error}", "", "refused", str(error))
        else:
            facts = {"sandbox": [], **machine.facts(), "cgroup": cgroup.path or None}
            run: Callable[[], None] = machine.run
            if isinstance(machine, Program):
                machine.costs = cgroup.counters
            else:
                if machine.config.sandbox:
                    facts["sandbox"] = sandbox.enter()
                adoption = threading.Thread(target=assign_identity, args=(machine, identity))
                adoption.daemon = True
                driven = (machine, channel, cgroup.counters)
                control = threading.Thread(target=serve, args=driven, name="control", daemon=True)
                run = partial(machine.run, adoption.start, control.start)
            channel.send({"id": identifier, "result": facts})
            run()
        status = 0
    except Exception as error:
        with contextlib.suppress(OSError):
            refuse(repr(error), "", "vmm-error", traceback.format_exc()[-4000:])
    finally:
        # nothing of the interpreter's own end: threads may sit in KVM_RUN
        os._exit(status)


def _machine(
    operation: str,
    arguments: dict[str, Any],
    channel: Channel,
    shared: SharedResources,
    memory: int,
) -> tuple[Machine | Program, dict[str, str]]:
    """What is to run, made in the network that it asks for, and the identity that it is to take."""
    asked = RestoreConfig.parse(arguments) if operation == "restore" else None
    origin = Snapshot(asked.snapshot, asked.config, asked.prefault_pages) if asked else None
    config: Config | PeerConfig | ContainerConfig
    if operation == "exec":
        config = PeerConfig.parse(arguments)
        bridged = bool(config.bridge)
    elif operation == "create_container":
        config = ContainerConfig.parse(arguments)
        bridged = True
    else:
        config = origin.config if origin else Config.parse(arguments)
        bridged = any(one.bridge for one in config.networks)
    if bridged:
        shared.network.enter()
    shared.network.close()
    if isinstance(config, PeerConfig):
        return start_peer(config, channel, memory, shared.directories), {}
    if isinstance(config, ContainerConfig):
        return start_container(config, channel), {}
    machine = Machine(config, channel.event, partial(_given, config, memory), origin)
    return machine, asked.identity if asked else {}


def _given(config: Config, memory: int) -> HostResources:
    storage = start_daemon(config)  # gets up while the rest is built
    links = [open_tap(one.bridge) if one.bridge else PasstProcess(one) for one in config.networks]
    return HostResources(storage, links, memory if storage else -1)
