"""The conformance suite, run with the built-in hypervisors and with the example of docs/."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugin.conftest import entry_point
from tests.real.conftest import Inner

pytestmark = [pytest.mark.emulated, pytest.mark.slow]
EXAMPLES = Path(__file__).parents[2] / "examples"
SUITE = ("--pyargs", "harness.conformance", "-rs")


def conforms(inner: Inner, hypervisor: str) -> None:
    outcomes = inner("", *SUITE, hypervisor=hypervisor).parseoutcomes()
    assert outcomes.get("passed", 0) > 12
    assert not outcomes.keys() & {"failed", "errors"}


@pytest.mark.parametrize("name", ["kvm", "qemu", "native"])
def test_a_built_in_hypervisor(inner: Inner, name: str) -> None:
    conforms(inner, name)


def test_the_example_of_the_manual(
    inner: Inner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry_point(pytester.path, "qemu-pc", "qemu_pc:QemuPcHypervisor")
    monkeypatch.syspath_prepend(pytester.path)
    monkeypatch.syspath_prepend(EXAMPLES / "hypervisor-qemu-pc")
    conforms(inner, "qemu-pc")
