"""A guest's process, from fork to exit: it creates the machine or program, confines and runs it."""

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
from .external_program import ExternalProgram
from .external_vmm import ExternalVmmConfig, start_external_vmm
from .init_requests import RestoreConfig, assign_identity
from .network import Network
from .operations import serve
from .os_hints import os_hint
from .passt import PasstProcess
from .storage_daemon import start_daemon
from .tap import open_tap, tap_name


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
    """Answer the request that starts the guest, run the guest, and exit.

    memory: descriptor of an empty file for guest memory that other processes map.
    """
    status = 1
    channel, identifier = Channel(guest, connection), request.get("id")

    def refuse(cause: str, hint: str, reason: str, detail: str) -> None:
        channel.send({"id": identifier, "error": {"cause": cause, "hint": hint}})
        channel.event("end", reason=reason, detail=detail, time_ns=time.monotonic_ns())

    try:
        arguments = request.get("arguments", {})
        try:
            cgroup = shared.cgroups.enter(guest, request.get("limits") or {})
            machine, identity = _create(request["op"], arguments, channel, shared, memory)
        except ConfigError as error:
            refuse(error.cause, error.hint, "refused", error.cause)
        except OSError as error:
            # external programs convert the errors of their own resources
            of_kvm = request["op"] in ("create", "restore")
            cause = f"KVM: {error}" if of_kvm else f"the host cannot start the guest: {error}"
            refuse(cause, "" if of_kvm else os_hint(error), "refused", str(error))
        else:
            facts = {"sandbox": [], "port": None, **machine.facts(), "cgroup": cgroup.path or None}
            run: Callable[[], None] = machine.run
            if isinstance(machine, ExternalProgram):
                machine.read_cgroup = cgroup.counters
            else:
                facts["port"] = _port(machine.resources)
                if machine.config.sandbox:
                    facts["sandbox"] = sandbox.enter()
                adoption = threading.Thread(
                    target=assign_identity, args=(machine, identity), daemon=True
                )
                control = threading.Thread(
                    target=serve,
                    args=(machine, channel, cgroup.counters),
                    name="control",
                    daemon=True,
                )
                run = partial(machine.run, adoption.start, control.start)
            channel.send({"id": identifier, "result": facts})
            run()
        status = 0
    except Exception as error:
        with contextlib.suppress(OSError):
            refuse(repr(error), "", "vmm-error", traceback.format_exc()[-4000:])
    finally:
        # skip the interpreter's own clean-up: threads may be in KVM_RUN
        os._exit(status)


def _create(
    operation: str,
    arguments: dict[str, Any],
    channel: Channel,
    shared: SharedResources,
    memory: int,
) -> tuple[Machine | ExternalProgram, dict[str, str]]:
    """The machine or program, created in its network, and the identity to assign to it."""
    restore = RestoreConfig.parse(arguments) if operation == "restore" else None
    snapshot = None
    if restore:
        snapshot = Snapshot(restore.snapshot, restore.config, restore.prefault_pages)
    config: Config | ExternalVmmConfig | ContainerConfig
    if operation == "exec":
        config = ExternalVmmConfig.parse(arguments)
        bridged = bool(config.bridge)
    elif operation == "create_container":
        config = ContainerConfig.parse(arguments)
        bridged = True
    else:
        config = snapshot.config if snapshot else Config.parse(arguments)
        bridged = any(network.bridge for network in config.networks)
    if bridged:
        shared.network.enter()
    shared.network.close()
    if isinstance(config, ExternalVmmConfig):
        return start_external_vmm(config, channel, memory, shared.directories), {}
    if isinstance(config, ContainerConfig):
        return start_container(config, channel), {}
    resources = partial(_prepare_resources, config, memory)
    machine = Machine(config, channel.event, resources, snapshot)
    return machine, restore.identity if restore else {}


def _port(resources: HostResources) -> str | None:
    """The machine's port of a bridge."""
    taps = (network for network in resources.networks if isinstance(network, int))
    return next(map(tap_name, taps), None)


def _prepare_resources(config: Config, memory: int) -> HostResources:
    storage = start_daemon(config)  # it starts up while the machine is built
    networks = [
        open_tap(network.bridge) if network.bridge else PasstProcess(network)
        for network in config.networks
    ]
    return HostResources(storage, networks, memory if storage else -1)
