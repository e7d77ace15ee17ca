"""The network of a guest and its way for SSH, by what the host offers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.errors import ProvisionError
from harness.hypervisors.base import GuestSpec
from harness.hypervisors.connectivity import resolve_connectivity
from images.image import GuestImage

FILE = Path("absent")
IMAGE = GuestImage(FILE, FILE, FILE, FILE, "", "", FILE, "", {}, FILE)
NETWORK = {"bridge": "guests", "address": "10.1.0.1", "prefix": 16, "namespaces": {}}
ALL: dict[str, Any] = {"vsock": True, "network": NETWORK}
NO_NETWORK: dict[str, Any] = {"vsock": True, "cause": "no tun", "hint": "load tun"}
NO_VSOCK: dict[str, Any] = {"vsock": False, "network": NETWORK}
NEITHER: dict[str, Any] = {**NO_NETWORK, "vsock": False}


def spec(network: str = "auto", ssh: str = "auto") -> GuestSpec:
    return GuestSpec("g", IMAGE, network=network, ssh=ssh)


@pytest.mark.parametrize(
    ("offer", "network", "ssh", "expected"),
    [
        (ALL, "auto", "auto", ("bridge", True)),
        (ALL, "auto", "network", ("bridge", False)),
        (ALL, "none", "auto", ("none", True)),
        (ALL, "passt", "auto", ("passt", True)),
        (NO_NETWORK, "auto", "auto", ("none", True)),
        (NO_NETWORK, "passt", "vsock", ("passt", True)),
        (NO_VSOCK, "auto", "auto", ("bridge", False)),
        # the VMM reports the missing device
        (NO_VSOCK, "auto", "vsock", ("bridge", True)),
        (NO_VSOCK, "passt", "auto", ("passt", True)),
        (NEITHER, "auto", "auto", ("none", True)),
    ],
)
def test_a_guest_gets_what_it_requests_of_the_offer(
    offer: dict[str, Any], network: str, ssh: str, expected: tuple[str, bool]
) -> None:
    result = resolve_connectivity(spec(network, ssh), offer, 0)
    assert (result.network, result.vsock) == expected
    assert result.facts["ssh"] == ("vsock" if result.vsock else "network")


@pytest.mark.parametrize(
    ("offer", "network", "ssh", "cause"),
    [
        (NO_NETWORK, "bridge", "auto", "no tun"),
        (NO_NETWORK, "auto", "network", "SSH cannot use network=none: no tun"),
        (ALL, "passt", "network", "SSH cannot use network=passt"),
        (ALL, "none", "network", "SSH cannot use network=none"),
    ],
)
def test_an_impossible_request_is_refused(
    offer: dict[str, Any], network: str, ssh: str, cause: str
) -> None:
    with pytest.raises(ProvisionError, match=cause) as caught:
        resolve_connectivity(spec(network, ssh), offer, 0)
    assert caught.value.stage == "create"
    assert caught.value.hint


def test_facts_explain_a_missing_network_only_if_it_was_accepted() -> None:
    assert resolve_connectivity(spec(), NO_NETWORK, 0).facts["no_network"] == "no tun"
    assert "no_network" not in resolve_connectivity(spec("none"), NO_NETWORK, 0).facts


def test_every_guest_has_its_own_address_and_mac() -> None:
    many = [resolve_connectivity(spec(), ALL, number) for number in range(1000)]
    assert len({one.address for one in many}) == len({one.mac for one in many}) == 1000
    assert (many[0].address, many[299].address) == ("10.1.0.2", "10.1.1.45")
    assert many[0].mac == "02:00:0a:01:00:02"
    assert many[0].cmdline == "harness.ip=10.1.0.2/16,10.1.0.1"
    # no guest gets the bridge's, the network's or the broadcast address
    last = (1 << 16) - 4
    assert resolve_connectivity(spec(), ALL, last).address == "10.1.255.254"
    assert resolve_connectivity(spec(), ALL, last + 1).address == "10.1.0.2"


def test_device_of_the_built_in_vmm() -> None:
    assert resolve_connectivity(spec(), ALL, 0).device == {
        "mac": "02:00:0a:01:00:02",
        "bridge": "guests",
    }
    passt = resolve_connectivity(spec("passt"), ALL, 7)
    assert passt.device["address"] + "," + passt.device["gateway"] == passt.cmdline[11:]
    assert passt.address == "", "the host does not reach it there"


@pytest.mark.parametrize("wrong", [{"network": "brigde"}, {"ssh": "telnet"}])
def test_unknown_words_are_an_error(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="must be one of"):
        spec(**wrong)
