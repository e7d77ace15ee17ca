"""How a guest is reached: its network, and whether SSH comes by vsock or by that network."""

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
    """network: "bridge", "passt" or "none". vsock: whether the guest has a vsock device; SSH then
    uses it.

    mac: of its network device. address: on the session's bridge, "" without it. bridge: its name on
    the host. configuration: "address/prefix,gateway" for the guest's init. missing_network: why
    there is no network although the test accepts one.
    """

    network: str
    vsock: bool
    mac: str = ""
    address: str = ""
    bridge: str = ""
    configuration: str = ""
    missing_network: str = ""

    @property
    def cmdline(self) -> str:
        """The words for the kernel's command line."""
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
        """For Machine.facts."""
        optional = {"mac": self.mac, "address": self.address, "no_network": self.missing_network}
        return {
            "network": self.network,
            "ssh": "vsock" if self.vsock else "network",
            **{name: value for name, value in optional.items() if value},
        }


def resolve_connectivity(spec: GuestSpec, offer: Mapping[str, Any], number: int) -> Connectivity:
    """The guest's part of what the host offers.

    offer: the agent's answer to "connectivity". number: from 0, different for each guest. Raises
    ProvisionError (stage "create") for a request that the host cannot satisfy.
    """
    missing = "" if "network" in offer else str(offer["cause"])
    network = spec.network
    if network == "auto":
        network = "none" if missing else "bridge"
    elif network == "bridge" and missing:
        raise _refused(spec, f"no network for the guest: {missing}", str(offer["hint"]))
    vsock = spec.ssh == "vsock" or (spec.ssh == "auto" and (offer["vsock"] or network != "bridge"))
    if not vsock and network != "bridge":
        cause = f"SSH cannot use network={network}" + (f": {missing}" if missing else "")
        raise _refused(spec, cause, "let SSH use vsock, or request network=bridge")
    if network == "none":
        reason = missing if spec.network == "auto" else ""
        return Connectivity(network, vsock, missing_network=reason)
    if network == "passt":
        configuration = f"{_PASST_ADDRESS}/{_PASST_PREFIX},{_PASST_GATEWAY}"
        return Connectivity(network, vsock, _mac(_PASST_ADDRESS), configuration=configuration)
    bridge = offer["network"]
    # The first address is the bridge's. Addresses repeat after 64 thousand guests; the first
    # guests have ended by then.
    count = (1 << (32 - bridge["prefix"])) - 3
    address = str(IPv4Address(bridge["address"]) + 1 + number % count)
    configuration = f"{address}/{bridge['prefix']},{bridge['address']}"
    return Connectivity(network, vsock, _mac(address), address, bridge["bridge"], configuration)


def _mac(address: str) -> str:
    """A locally administered MAC address that contains the IPv4 address."""
    return "02:00:" + IPv4Address(address).packed.hex(":")


def _refused(spec: GuestSpec, cause: str, hint: str) -> ProvisionError:
    return ProvisionError(cause, hint=hint, stage="create", guest=spec.name)
