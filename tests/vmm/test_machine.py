"""Machines in this process: exits as devices see them, vCPU state, statistics."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from harness.kvm.errors import MachineEnd
from harness.vmm.run_control import KICK_SIGNAL
from tests.vmm.guests import in_process
from tests.vmm.payload import BASE, FOR_EVER, HELLO, POWER_OFF

pytestmark = pytest.mark.usefixtures("kvm_device")


class RecordingDevice:
    """A device that records every access and returns a counter for reads."""

    def __init__(self) -> None:
        self.writes: list[tuple[int, int, int]] = []
        self.reads: list[tuple[int, int]] = []

    def read(self, offset: int, size: int) -> int:
        self.reads.append((offset, size))
        return 0x8070_6050_4030_2010 + len(self.reads)

    def write(self, offset: int, size: int, value: int) -> None:
        self.writes.append((offset, size, value))


def test_port_accesses_of_every_width_and_strings(tmp_path: Path) -> None:
    device = RecordingDevice()
    source = """
        mov $0xd00, %dx ; mov $0x11223344, %eax
        out %al, %dx ; inc %dx ; out %ax, %dx ; inc %dx ; out %eax, %dx
        mov $0xd08, %dx ; xor %eax, %eax
        in %dx, %al ; mov %eax, %ebx ; in %dx, %ax ; mov %eax, %esi ; in %dx, %eax
        mov %eax, %edi
        mov $0xd04, %dx
        mov %ebx, %eax ; out %eax, %dx
        mov %esi, %eax ; out %eax, %dx
        mov %edi, %eax ; out %eax, %dx
        cld ; mov $0x200000, %edi ; mov $3, %ecx ; mov $0xd08, %dx ; rep insw
        mov $0x200000, %esi ; mov $6, %ecx ; mov $0xd04, %dx ; rep outsb
    """
    with in_process(source + POWER_OFF, tmp_path, ports=device) as machine:
        machine.run()
    assert device.writes[:3] == [(0, 1, 0x44), (1, 2, 0x3344), (2, 4, 0x1122_3344)]
    assert device.writes[3:6] == [(4, 4, 0x11), (4, 4, 0x2012), (4, 4, 0x4030_2013)]
    assert device.writes[6:] == [(4, 1, byte) for byte in b"\x14\x20\x15\x20\x16\x20"]
    assert device.reads == [(8, 1), (8, 2), (8, 4), (8, 2), (8, 2), (8, 2)]


def test_mmio_accesses_of_every_width(tmp_path: Path) -> None:
    device = RecordingDevice()
    source = """
        mov $0xd0000000, %ebx
        movb $0x11, 1(%ebx) ; movw $0x2233, 2(%ebx) ; movl $0x44556677, 4(%ebx)
        xor %eax, %eax ; movb 8(%ebx), %al ; mov %eax, (%ebx)
        movw 8(%ebx), %ax ; mov %eax, (%ebx)
        movl 8(%ebx), %eax ; mov %eax, (%ebx)
    """
    with in_process(source + POWER_OFF, tmp_path, memory=device) as machine:
        machine.run()
    assert device.writes[:3] == [(1, 1, 0x11), (2, 2, 0x2233), (4, 4, 0x4455_6677)]
    assert device.writes[3:] == [(0, 4, 0x11), (0, 4, 0x2012), (0, 4, 0x4030_2013)]
    assert device.reads == [(8, 1), (8, 2), (8, 4)]


def test_device_can_end_the_machine(tmp_path: Path) -> None:
    class Trap(RecordingDevice):
        def write(self, offset: int, size: int, value: int) -> None:
            raise MachineEnd("trapped", f"{value:#x}")

    sent: list[dict[str, object]] = []
    with in_process(
        "mov $0xd00, %dx ; out %ax, %dx\n" + FOR_EVER, tmp_path, ports=Trap()
    ) as machine:
        machine.event = lambda event, **more: sent.append({"event": event, **more})
        machine.run()
    assert [message["reason"] for message in sent if message["event"] == "end"] == ["trapped"]


def test_pvh_entry_state(tmp_path: Path) -> None:
    """Flat protected mode, no paging, interrupts disabled, start information in EBX."""
    device = RecordingDevice()
    source = """
        mov $0xd00, %dx
        mov %ebx, %eax ; out %eax, %dx
        mov (%ebx), %eax ; out %eax, %dx
        mov %cr0, %eax ; out %eax, %dx
        pushf_here: mov $0x300000, %esp ; pushf ; pop %eax ; out %eax, %dx
    """
    with in_process(source + POWER_OFF, tmp_path, ports=device, pvh=True) as machine:
        registers = machine.vcpus[0].registers()
        assert (registers["rip"], registers["rflags"]) == (BASE, 2)
        machine.run()
    info, magic, cr0, flags = (value for _, _, value in device.writes)
    assert (registers["rbx"], magic) == (info, 0x336E_C578)
    assert (cr0 & 1, cr0 >> 31, flags & 1 << 9) == (1, 0, 0)


def test_registers_round_trip(tmp_path: Path) -> None:
    with in_process(FOR_EVER, tmp_path) as machine:
        vcpu = machine.vcpus[0]
        before = vcpu.registers()
        registers = {name: 0x100 + at for at, name in enumerate(before)} | {"rflags": 2}
        vcpu.set_registers(registers)
        assert vcpu.registers() == registers
        vcpu.set_registers({})
        assert set(vcpu.registers().values()) <= {0, 2}


def test_statistics_count_exits(tmp_path: Path) -> None:
    source = "mov $100, %ecx ; mov $0xd00, %dx\n1: out %al, %dx ; dec %ecx ; jnz 1b\n"
    with in_process(source + POWER_OFF, tmp_path, ports=RecordingDevice()) as machine:
        assert machine.statistics()["user_exits"] == 0
        machine.run()
        statistics = machine.statistics()
        assert statistics["user_exits_io"] == 101
        assert statistics["user_exits"] == 101
        if machine.facts()["binary_stats"]:
            assert statistics["exits"] > 0
        assert statistics["cpu_ns"] > 0


def test_coalesced_writes_precede_the_next_exit(tmp_path: Path) -> None:
    device = RecordingDevice()
    order: list[str] = []
    with in_process(HELLO + "mov $0xd00, %dx ; out %al, %dx\n" + POWER_OFF, tmp_path) as machine:
        machine.consoles["ttyS0"]._emit = lambda at, text: order.append(text)
        machine.buses.pio.add(0xD00, 1, device)
        device.write = lambda offset, size, value: order.append("port")  # type: ignore[method-assign]
        machine.run()
    assert order == ["hi", "port"]


@pytest.mark.parametrize("port", ["0xcf9", "0x64"])
def test_coalesced_reset_precedes_the_next_exit(port: str, tmp_path: Path) -> None:
    """Port 0xCF9 is coalesced, so the write may be in the ring when the guest ends."""
    sent: list[dict[str, object]] = []
    value = {"0xcf9": 6, "0x64": 0xFE}[port]
    source = (
        f"mov ${port}, %dx ; mov ${value}, %al ; out %al, %dx ; lidt 1f ; ud2\n1: .word 0, 0, 0"
    )
    with in_process(source, tmp_path) as machine:
        machine.event = lambda event, **more: sent.append({"event": event, **more})
        machine.run()
    assert [message["reason"] for message in sent if message["event"] == "end"] == ["reset"]


def test_binary_statistics_of_vm_and_vcpus(tmp_path: Path) -> None:
    with in_process(FOR_EVER, tmp_path) as machine:
        assert len(machine._statistics.binary_stats) in (0, 2)
        for stats in machine._statistics.binary_stats:
            assert all(value >= 0 for value in stats.read().values())


def test_stop_ends_a_halted_vcpu(tmp_path: Path) -> None:
    ends: list[BaseException] = []
    with in_process("cli\n" + FOR_EVER, tmp_path) as machine:
        signal.signal(KICK_SIGNAL, lambda number, frame: None)
        vcpu = machine.vcpus[0]
        vcpu.start(ends.append)
        vcpu.run_control.stop()
        assert vcpu.run_control.thread is not None
        vcpu.run_control.thread.join(10)
        assert not vcpu.run_control.thread.is_alive()
    assert [str(end) for end in ends] == ["stopped"]
