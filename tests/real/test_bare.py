"""The bare program of the suites: each case on the built-in VMM and on QEMU."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import ProvisionError, WorkloadError
from harness.guest.payload import PayloadFactory
from harness.hosts.base import Host
from harness.hypervisors.kvm import KvmHypervisor
from harness.hypervisors.qemu import QemuHypervisor
from suites import bare
from suites.cost import BackgroundExits
from tests.real.conftest import kvm_holders

OPS, BATCHES = 400, 5
CONTROL_OPS = 10_000_000  # enough to measure the timer's exits a second on a busy machine
EXIT_CASES = ("hypercall_null", "cpuid", "msr_read", "pio_kernel", "pio_user", "mmio_user")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bare.build(tmp_path_factory.mktemp("bare"))


@pytest.fixture(scope="module")
def qemu(emulated_host: Host) -> Iterator[QemuHypervisor]:
    hypervisor = QemuHypervisor(emulated_host, lambda text: None)
    yield hypervisor
    hypervisor.close()


@pytest.fixture(params=["kvm", "qemu"])
def payloads(request: pytest.FixtureRequest, emulated_host: Host) -> PayloadFactory:
    """emulated_host: named, since the marker emulated goes by a test's fixtures."""
    hypervisor: KvmHypervisor | QemuHypervisor = request.getfixturevalue(request.param)
    return PayloadFactory(hypervisor=hypervisor, prefix="bare", numbers=itertools.count())


def test_each_operation_causes_one_exit(
    payloads: PayloadFactory, program: Path, emulated_host: Host
) -> None:
    before = kvm_holders(emulated_host)
    start = bare.run(payloads, program, "control", 10, BATCHES)
    long = bare.run(payloads, program, "control", CONTROL_OPS, BATCHES)
    assert start.exits is not None
    assert long.exits is not None
    background = BackgroundExits.from_controls(
        (start.exits, start.seconds), (long.exits, long.seconds)
    )
    more = ("mmio_eventfd",) if bare.serves_eventfds(payloads) else ()
    for case in (*EXIT_CASES, *more):
        ran = bare.run(payloads, program, case, OPS, BATCHES)
        assert ran.exits is not None
        exits = background.exits_per_operation(ran.exits, ran.seconds, ran.operations)
        assert exits == pytest.approx(1.0, abs=0.2), case
        # An exit costs more than the loop's own iteration.
        assert min(ran.batches) / OPS > 10 * min(long.batches) / CONTROL_OPS, case
    assert kvm_holders(emulated_host) == before


@pytest.mark.parametrize("case", ["ipi", "ipi_halt", "timer_latency", "world_switch"])
def test_interrupts_arrive(payloads: PayloadFactory, program: Path, case: str) -> None:
    ran = bare.run(payloads, program, case, 20, BATCHES, vcpus=2)
    assert min(ran.batches) > 0
    assert ran.seconds < 5


def test_eventfd_causes_an_interrupt(kvm: KvmHypervisor, program: Path) -> None:
    """Without the eventfd the program reports a lost interrupt."""
    payloads = PayloadFactory(hypervisor=kvm, prefix="bare", numbers=itertools.count())
    ran = bare.run(payloads, program, "irqfd", 20, BATCHES)
    assert min(ran.batches) > 0
    assert ran.seconds < 5


def test_two_vcpus_alternate_on_one_cpu(
    payloads: PayloadFactory, program: Path, emulated_host: Host
) -> None:
    cpus = emulated_host.facts.cpu_numbers[-1:]
    ran = bare.run(payloads, program, "world_switch", 50, BATCHES, vcpus=2, cpus=cpus)
    assert 0 < ran.seconds < 5
    guest = payloads(
        bare.configure(program, "control", 1, 1), mode="protected", memory=64, cpus=cpus
    )
    cpuset = emulated_host.run(["cat", f"{guest.facts['cgroup']}/cpuset.cpus"]).stdout
    assert cpuset.split() == [str(cpus[0])]
    guest.stop()
    with pytest.raises(ProvisionError, match="not a list"):
        payloads(b"\xf4", mode="protected", cpus=cpus[0])


def test_program_reports_a_missing_cpu(payloads: PayloadFactory, program: Path) -> None:
    with pytest.raises(WorkloadError, match="no valid result for ipi: no second CPU"):
        bare.run(payloads, program, "ipi", 1, 1, vcpus=1)


def test_early_end_of_the_payload_is_reported(payloads: PayloadFactory, tmp_path: Path) -> None:
    program = bare.build(tmp_path)
    data = bytearray(program.read_bytes())
    entry = data.index(b"\xfa\x0f\x01\x15")  # cli, lgdt
    data[entry : entry + 2] = b"\x0f\x0b"  # ud2
    program.write_bytes(data)
    with pytest.raises(WorkloadError, match=r"no valid result for control: .*(triple|reset)"):
        bare.run(payloads, program, "control", 1, 1)


def test_qemu_rejects_unsupported_payload_options(qemu: QemuHypervisor, program: Path) -> None:
    payloads = PayloadFactory(hypervisor=qemu, prefix="bare", numbers=itertools.count())
    with pytest.raises(ProvisionError, match="a payload in long mode is for the built-in VMM"):
        payloads(b"\xf4", mode="long")
    with pytest.raises(ProvisionError, match="registers of a payload"):
        payloads(b"\xf4", mode="protected", registers={"rax": 1})
    with pytest.raises(ProvisionError, match="a payload's eventfds"):
        payloads(b"\xf4", mode="protected", eventfds=bare.EVENTFDS["irqfd"])
    with pytest.raises(ProvisionError, match="an exit_limit"):
        payloads(program, mode="protected", exit_limit=1000)
    with pytest.raises(ProvisionError, match="an entry that is not the file's own"):
        payloads(program, mode="protected", entry=0x10_0040)
    with pytest.raises(ProvisionError, match="not a little-endian ELF file"):
        payloads(b"\xf4", mode="protected")
