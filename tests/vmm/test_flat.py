"""Payloads in every mode: entry state, loading, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.errors import ProvisionError
from harness.kvm.vcpu import Vcpu
from harness.vmm.boot import flat
from tests.vmm.guests import Runner, in_process
from tests.vmm.payload import BASE, FOR_EVER, HELLO, POWER_OFF
from tests.vmm.payload import flat as fields


@pytest.mark.parametrize("mode", flat.MODES)
def test_payload_runs_in_every_mode(run: Runner, mode: str) -> None:
    guest = run(HELLO + POWER_OFF + FOR_EVER, mode=mode)
    assert guest.end().reason == "power-off", guest.ends
    assert guest.lines == ["hi"]


def test_real_mode_uses_the_segment_of_the_entry(run: Runner, tmp_path: Path) -> None:
    """0x27c00 is 0x2000:0x7c00, so code that is linked for 0x7c00 runs there."""
    source = "mov %cs, %ax ; cmp $0x2000, %ax ; jne 9f ; call 1f\n9: hlt\n1:"
    code = fields(source + POWER_OFF, tmp_path, "real")
    code["payload"][0]["gpa"] = code["entry"] = 0x2_7C00
    assert run.start("create", "guest", **code, memory=1, vsock=False).end().reason == "power-off"


def test_protected_mode_has_descriptors_and_stack(run: Runner) -> None:
    """Each selector loads, and the stack works for a call."""
    source = """
        mov $0x10, %ax ; mov %ax, %ds ; mov %ax, %ss ; mov %ax, %es
        ljmp $8, $1f
    1:  call 2f
    """
    guest = run(source + FOR_EVER + "\n2:" + HELLO + POWER_OFF)
    assert guest.end().reason == "power-off"


def test_long_mode_identity_maps_4_gib(run: Runner) -> None:
    """Memory is identity-mapped; other addresses reach the bus."""
    source = """
        mov $0x123456789abcdef0, %rax ; mov %rax, 0x200000
        mov $0x200000, %rbx ; cmp %rax, (%rbx) ; jne 9f
        mov $0xd0000000, %rbx ; mov (%rbx), %ecx ; cmp $-1, %ecx ; jne 9f
        call 1f
    9:  jmp 9b
    1:
    """
    guest = run(source + HELLO + POWER_OFF, mode="long")
    assert guest.end().reason == "power-off"


def test_initial_registers_are_set(run: Runner) -> None:
    source = """
        cmp $0x1badb002, %eax ; jne 9f
        cmp $0x5000, %ebx ; jne 9f
        cmp $0x9f000, %esp ; jne 9f
    """
    source += POWER_OFF + "9: hlt"
    guest = run(source, registers={"rax": 0x1BAD_B002, "rbx": 0x5000})
    assert guest.end().reason == "power-off"


def test_segments_are_loaded_from_file_offsets(run: Runner, tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"....hi\n....")
    source = "mov $0x3f8, %dx ; mov $0x200000, %esi ; mov $3, %ecx ; cld ; rep outsb\n"
    code = fields(source + POWER_OFF, tmp_path)
    code["payload"].append({"gpa": 0x20_0000, "path": str(path), "offset": 4, "size": 3})
    guest = run.start("create", "guest", **code, memory=4, vsock=False)
    assert (guest.end().reason, guest.lines) == ("power-off", ["hi"])


SEGMENT = {"gpa": BASE, "path": "/dev/zero", "offset": 0, "size": 16}


@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        ({"mode": "virtual"}, "no mode 'virtual'"),
        ({"registers": {"xmm0": 1}}, "no register 'xmm0'"),
        ({"registers": {"rax": -1}}, "no register 'rax' can be -1"),
        ({"registers": {"rax": 1 << 64}}, "no register"),
        ({"registers": {"rax": "1"}}, "registers is no int"),
        ({"registers": []}, "registers is no dict"),
        ({"mode": "real", "entry": 1 << 20}, "out of the reach of real mode"),
        ({"entry": 1 << 32}, "out of the reach of protected mode"),
        ({"entry": -1}, "out of the reach"),
        ({"mode": "long", "entry": 1 << 47}, "out of the reach"),
        ({"payload": [{**SEGMENT, "gpa": 16 << 20}]}, "does not fit into 16 MiB"),
        ({"payload": [{**SEGMENT, "gpa": -1}]}, "does not fit"),
        ({"payload": [{**SEGMENT, "size": -1}]}, "out of range"),
        ({"payload": [{**SEGMENT, "offset": -1}]}, "out of range"),
        ({"payload": [{**SEGMENT, "offset": 1 << 63}]}, "out of range"),
        ({"payload": [{**SEGMENT, "path": "/dev/null"}]}, "truncated"),
        ({"payload": [{**SEGMENT, "path": "/absent"}]}, "No such file"),
        ({"payload": [{**SEGMENT, "path": "/"}]}, "directory"),
        ({"payload": [{**SEGMENT, "gpa": 0x4F1}]}, "overlaps"),
        ({"payload": [{**SEGMENT, "gpa": 0x6FFF}], "mode": "long"}, "overlaps"),
        ({"payload": [{**SEGMENT, "gpa": 0xFF8, "size": 9}], "mode": "long"}, "overlaps"),
        ({"payload": []}, "neither a kernel nor"),
        ({"kernel": "/vmlinux"}, "both a kernel and"),
    ],
    ids=str,
)
def test_invalid_payload_is_refused(run: Runner, wrong: dict[str, Any], cause: str) -> None:
    arguments = {"payload": [SEGMENT], "entry": BASE, "memory": 16, "vsock": False, **wrong}
    with pytest.raises(ProvisionError) as refused:
        run.start("create", "refused", **arguments)
    assert cause in refused.value.cause


def test_paused_machine_runs_nothing_before_resume(run: Runner) -> None:
    guest = run(HELLO + POWER_OFF + FOR_EVER, paused=True)
    assert guest.machine.statistics()["user_exits"] == 0
    guest.machine._agent.request("resume", "guest")
    assert guest.end().reason == "power-off"


@pytest.mark.usefixtures("kvm_device")
def test_special_registers_round_trip(tmp_path: Path) -> None:
    with in_process(FOR_EVER, tmp_path) as machine:
        vcpu: Vcpu = machine.vcpus[0]
        before = vcpu.special()
        assert (before["gdt"], before["cr0"][0] & 1) == ((0x500, 31), 1)
        assert before["cs"][:3] == (0, 0xFFFF_FFFF, 8)
        vcpu.set_special({"cr3": (0x5000,), "idt": (0x1234, 0xFF)})
        assert vcpu.special() == {**before, "cr3": (0x5000,), "idt": (0x1234, 0xFF)}
