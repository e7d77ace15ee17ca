"""The conformance suite, run with the built-in hypervisors and with the examples."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.plugin.conftest import entry_point
from tests.real.conftest import Inner

pytestmark = [pytest.mark.emulated, pytest.mark.slow]
EXAMPLES = Path(__file__).parents[2] / "examples"
SUITE = (
    "--pyargs",
    "harness.conformance",
    "-rs",
    "--virt-host=emulated",
    "--guest-boot-timeout=180",
)


def conforms(inner: Inner, hypervisor: str) -> None:
    result = inner("", *SUITE, hypervisor=hypervisor)
    outcomes = result.parseoutcomes()
    # with the output, a fault of the emulated CPU is recognized, and the test runs again
    assert not outcomes.keys() & {"failed", "errors"}, result.stdout.str()
    assert outcomes.get("passed", 0) > 12


@pytest.mark.parametrize("name", ["kvm", "qemu", "native"])
def test_a_built_in_hypervisor(inner: Inner, name: str) -> None:
    conforms(inner, name)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("qemu-pc", "qemu_pc:QemuPcHypervisor"),
        pytest.param(
            "kvmtool",
            "kvmtool:KvmtoolHypervisor",
            marks=pytest.mark.skipif(
                "LKVM" not in os.environ, reason="LKVM does not name a kvmtool program"
            ),
        ),
    ],
)
def test_an_example(
    inner: Inner,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    target: str,
) -> None:
    entry_point(pytester.path, name, target)
    monkeypatch.syspath_prepend(pytester.path)
    monkeypatch.syspath_prepend(EXAMPLES / f"hypervisor-{name}")
    conforms(inner, name)
