"""How a guest is reached: which network it gets, and by which way SSH comes in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from harness.errors import ProvisionError
from harness.hypervisors.base import GuestSpec

_PASST_ADDRESS, _PASST_PREFIX, _PASST_GATEWAY = "10.2.0.2", 24, "10.2.0.1"


@dataclass(frozen=True)
class Connectivity:
    """network: "bridge", "passt" or "none". vsock: whether the guest has one; then SSH goes there.

    address: in the guests' network, "" without it. configuration: what its init is told of it.
    why: there is no network although nobody said so.
    """

    network: str
    vsock: bool
    mac: str = ""
    address: str = ""
    bridge: str = ""
    configuration: str = ""
    why: str = ""

    @property
    def cmdline(self) -> str:
        """What its kernel is told of it."""
        return f"harness.ip={self.configuration}" if self.configuration else ""

    @property
    def device(self) -> dict[str, str]:
        """The built-in VMM's NetworkConfig."""
        if self.bridge:
            return {"mac": self.mac, "bridge": self.bridge}
        address = f"{_PASST_ADDRESS}/{_PASST_PREFIX}"
        return {"mac": self.mac, "address": address, "gateway": _PASST_GATEWAY}

    @property
    def facts(self) -> dict[str, Any]:
        """For a guest's own."""
        found = {"network": self.network, "ssh": "vsock" if self.vsock else "network"}
        more = {"mac": self.mac, "address": self.address, "no_network": self.why}
        return {**found, **{name: value for name, value in more.items() if value}}


def resolve_connectivity(spec: GuestSpec, ways: Mapping[str, Any], number: int) -> Connectivity:
    """What this guest gets of what the host has.

    ways: the supervisor's answer to "connectivity". number: from 0, another for each guest. Raises
    ProvisionError (stage "create") for what was asked for and is not there.
    """
    lacks = "" if "network" in ways else str(ways["cause"])
    network = spec.network
    if network == "auto":
        network = "none" if lacks else "bridge"
    elif network == "bridge" and lacks:
        raise _refused(spec, f"no network for the guest: {lacks}", str(ways["hint"]))
    vsock = spec.ssh == "vsock" or (spec.ssh == "auto" and (ways["vsock"] or network != "bridge"))
    if not vsock and network != "bridge":
        cause = f"SSH cannot come by network={network}" + (f": {lacks}" if lacks else "")
        raise _refused(spec, cause, "leave SSH to vsock, or give the guest network=bridge")
    if network == "none":
        return Connectivity(network, vsock, why=lacks if spec.network == "auto" else "")
    if network == "passt":
        told = f"{_PASST_ADDRESS}/{_PASST_PREFIX},{_PASST_GATEWAY}"
        return Connectivity(network, vsock, _mac(_PASST_ADDRESS), configuration=told)
    own = ways["network"]
    # the first is the bridge's; after 64 thousand guests the first ones are long gone
    room = (1 << (32 - own["prefix"])) - 3
    address = str(IPv4Address(own["address"]) + 1 + number % room)
    told = f"{address}/{own['prefix']},{own['address']}"
    return Connectivity(network, vsock, _mac(address), address, own["bridge"], told)


def _mac(address: str) -> str:
    """A locally administered one that shows the address."""
    return "02:00:" + IPv4Address(address).packed.hex(":")


def _refused(spec: GuestSpec, cause: str, hint: str) -> ProvisionError:
    return ProvisionError(cause, hint=hint, stage="create", guest=spec.name)
