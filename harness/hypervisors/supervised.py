"""What all hypervisors have in common whose machines are run by an agent on the host."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

from harness.errors import HostError, hide_frames
from harness.hosts.base import Host
from harness.hypervisors.agent_client import AgentClient
from harness.hypervisors.base import ROOT_DISK, Disk, Events, GuestSpec, OnUtilization
from harness.hypervisors.capabilities import SupportsHostNetwork
from harness.hypervisors.command_line import kernel_command_line
from harness.hypervisors.connectivity import Connectivity, resolve_connectivity
from harness.hypervisors.machines import SupervisedMachine, start_machine

__tracebackhide__ = hide_frames


class SupervisedHypervisor(SupportsHostNetwork):
    """A hypervisor whose machines run under one agent; see Hypervisor.

    Attributes:
        agent: runs on the host. taps: each guest joins the network by a tap of its own.
    """

    name = ""
    taps = True

    def __init__(
        self,
        host: Host,
        progress: Callable[[str], None],
        *,
        shares: SupervisedHypervisor | None = None,
    ) -> None:
        """Start the agent, or share that of another hypervisor, whose network the guests then join.

        The other one ends the machines of both when it is closed. Raises HostError.
        """
        self.host = host
        self._shares = shares
        self.agent: AgentClient = shares.agent if shares else AgentClient(host)
        self._numbers: Iterator[int] = shares._numbers if shares else itertools.count()

    @cached_property
    def _host_connectivity(self) -> Mapping[str, Any]:
        """What the host offers. The agent makes the network at the first request."""
        if self._shares:
            return self._shares._host_connectivity
        return dict(self.agent.request("connectivity", arguments={"taps": self.taps}))

    def connectivity(self, spec: GuestSpec) -> Connectivity:
        """How this guest is reached. Raises ProvisionError for what the host does not offer."""
        return resolve_connectivity(spec, self._host_connectivity, next(self._numbers))

    def command_line(
        self, spec: GuestSpec, connectivity: Connectivity, console: str = "ttyS0"
    ) -> str:
        """See kernel_command_line."""
        return kernel_command_line(
            spec, connectivity, emulated_host=self.host.emulated, console=console
        )

    def in_network(self, argv: Sequence[str]) -> list[str]:
        """See SupportsHostNetwork. The host has the bridge's address there."""
        offer = self._host_connectivity
        if "network" not in offer:
            raise HostError(
                f"there is no network of guests on {self.host.name}: {offer['cause']}",
                hint=offer["hint"],
                stage="host",
            )
        namespaces = [f"--{name}={path}" for name, path in offer["network"]["namespaces"].items()]
        return ["nsenter", "--preserve-credentials", *namespaces, "--", *argv]

    def start(
        self,
        operation: str,
        spec: GuestSpec,
        arguments: Mapping[str, Any],
        connectivity: Connectivity,
        events: Events,
    ) -> SupervisedMachine:
        """Start a machine; see start_machine. Raises ProvisionError (stage "create")."""
        machine = start_machine(
            self.agent,
            operation,
            spec.name,
            arguments,
            events,
            timeout=spec.boot_timeout,
            limits=spec.limits,
        )
        machine.facts = {**machine.facts, **connectivity.facts}
        if connectivity.bridge:
            machine.network_command = self.in_network([])
        return machine

    def disks(self, spec: GuestSpec) -> list[dict[str, Any]]:
        """All disks of a guest as the agent's DiskConfig, the root disk first."""
        root = [Disk(self.host.place(spec.image.disk), ROOT_DISK)] if spec.root == "disk" else []
        return [self.disk(disk) for disk in (*root, *spec.disks)]

    def disk(self, disk: Disk) -> dict[str, Any]:
        """A disk as the agent's DiskConfig."""
        return {**asdict(disk), "overlay": self.host.scratch() if disk.overlay else ""}

    def capabilities(self) -> Mapping[str, int]:
        """See Hypervisor."""
        return dict(self.agent.request("capabilities"))

    def watch(self, callback: OnUtilization) -> None:
        """See Hypervisor."""
        self.agent.watch(callback)

    def close(self) -> None:
        """See Hypervisor."""
        if not self._shares:
            self.agent.close()
