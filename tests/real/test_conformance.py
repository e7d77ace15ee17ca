"""The conformance suite, run with the built-in hypervisors and with the example of the manual."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugin.conftest import entry_point
from tests.real.conftest import Inner

pytestmark = pytest.mark.long
EXAMPLES = Path(__file__).parents[2] / "examples"
SUITE = (
    "--pyargs",
    "harness.conformance",
    "-rs",
    "--virt-host=emulated",
    "--guest-boot-timeout=180",
)


OPTIONAL = {"Introspection", "Balloon", "ExitLimit", "Monitor", "Clone"}
# the optional capabilities that each hypervisor has; the tests of the others are skipped
CAPABILITIES = {
    "kvm": OPTIONAL - {"Monitor"},
    "qemu": {"Monitor"},
    "qemu-q35": {"Monitor"},
    "native": set(),
    "qemu-pc": set(),
}
NATIVE_SKIPS = ("needs a virtual machine, which a native guest is not", "network=none is refused")


def unexpected_skips(lines: list[str], hypervisor: str) -> list[str]:
    """Reasons in the summary of skipped tests that are no property of the hypervisor."""
    missing = OPTIONAL - CAPABILITIES[hypervisor]
    expected = [f"does not declare Supports{name}" for name in missing]
    if hypervisor == "native":
        expected += NATIVE_SKIPS
    skips = [line for line in lines if line.startswith("SKIPPED [")]
    return [line for line in skips if not any(reason in line for reason in expected)]


def conforms(inner: Inner, hypervisor: str) -> None:
    result = inner("", *SUITE, hypervisor=hypervisor)
    outcomes = result.parseoutcomes()
    # with the output, a fault of the emulated CPU is recognized, and the test runs again
    assert not outcomes.keys() & {"failed", "errors"}, result.stdout.str()
    assert unexpected_skips(result.outlines, hypervisor) == []
    assert outcomes["passed"] > 12


@pytest.mark.parametrize("name", ["kvm", "qemu", "qemu-q35", "native"])
def test_built_in_hypervisor_conforms(inner: Inner, name: str) -> None:
    conforms(inner, name)


def test_example_of_the_manual_conforms(
    inner: Inner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry_point(pytester.path, "qemu-pc", "qemu_pc:QemuPcHypervisor")
    monkeypatch.syspath_prepend(pytester.path)
    monkeypatch.syspath_prepend(EXAMPLES / "hypervisor-qemu-pc")
    conforms(inner, "qemu-pc")
