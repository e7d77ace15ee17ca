"""Payload guests: flat code and ELF files, their arguments, ends and refusals."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness.errors import GuestEnded, HarnessError, ProvisionError
from harness.guest.payload import BASES, PayloadFactory, assemble
from harness.hypervisors.payload_file import parse_elf
from tests.vmm.payload import FOR_EVER, HELLO, POWER_OFF
from tests.waiting import TIMEOUT

MODES = tuple(BASES)
BITS = {"protected": 32, "long": 64}


def link(mode: str, source: str, folder: Path) -> Path:
    """Link an ELF file at 2 MiB with a data segment."""
    bits, path = BITS[mode], folder / "payload.elf"
    emulation = {32: "elf_i386", 64: "elf_x86_64"}[bits]
    (folder / "code.s").write_text(f".globl _start\n_start:\n{source}\n")
    subprocess.run(["as", f"--{bits}", "-o", folder / "code.o", folder / "code.s"], check=True)
    places = ["-Ttext=0x200000", "-Tdata=0x300000"]
    subprocess.run(["ld", "-m", emulation, *places, "-o", path, folder / "code.o"], check=True)
    return path


SAY_DATA = """
    mov $0x3f8, %edx ; mov $message, %esi ; mov $3, %ecx ; cld ; rep outsb
    mov $0x604, %edx ; mov $0x3400, %eax ; out %ax, %dx
9:  hlt ; jmp 9b
    .data
message: .ascii "hi\\n"
"""


@pytest.mark.parametrize("mode", MODES)
def test_flat_code_runs_in_every_mode(payload: PayloadFactory, mode: str) -> None:
    guest = payload(assemble(HELLO + POWER_OFF + FOR_EVER, mode), mode=mode)
    assert guest.wait_end().reason == "power-off"
    assert guest.console.tail() == ["hi"]


@pytest.mark.parametrize("mode", BITS)
@pytest.mark.parametrize("kind", ["path", "bytes"])
def test_elf_file_defines_its_addresses_and_mode(
    payload: PayloadFactory, tmp_path: Path, mode: str, kind: str
) -> None:
    path = link(mode, SAY_DATA, tmp_path)
    guest = payload(path if kind == "path" else path.read_bytes())
    assert guest.spec.mode == mode
    assert guest.spec.entry == 0x20_0000
    with pytest.raises(ProvisionError, match="base=0x500000 does not apply to an ELF file"):
        payload(path, base=0x50_0000)
    assert guest.wait_end().reason == "power-off"
    assert guest.console.tail() == ["hi"]


@pytest.mark.payload(memory=2, vcpus=2, registers={"rbx": 3})
def test_marker_sets_the_defaults(payload: PayloadFactory, request: pytest.FixtureRequest) -> None:
    guest = payload(assemble(FOR_EVER))
    assert (guest.facts["memory"], guest.facts["vcpus"]) == (2, 2)
    assert (len(guest.vm.vcpus), guest.vm.vcpus[0].regs.rbx) == (2, 3)
    assert payload(assemble(FOR_EVER), memory=3).facts["memory"] == 3
    assert request.node.get_closest_marker("payload") is not None


def test_base_and_entry_are_applied(payload: PayloadFactory) -> None:
    code = assemble(FOR_EVER + "\n" + HELLO + POWER_OFF, base=0x50_0000)
    skipped = assemble(FOR_EVER, base=0x50_0000)
    guest = payload(code, base=0x50_0000, entry=0x50_0000 + len(skipped))
    assert guest.wait_end().reason == "power-off"
    assert guest.console.tail() == ["hi"]


def test_payload_has_no_devices_by_default(payload: PayloadFactory) -> None:
    guest = payload(assemble(HELLO + FOR_EVER))
    guest.console.wait_for("hi", TIMEOUT)
    assert guest.facts["devices"] == []
    assert guest.facts["cid"] == 0
    assert guest.statistics()["user_exits"] >= 0
    guest.check_alive()
    guest.stop()
    assert guest.wait_end().reason == "stopped"
    with pytest.raises(GuestEnded, match="stopped"):
        guest.statistics()


def test_machine_without_introspection_is_an_error(payload: PayloadFactory) -> None:
    """A machine without `ask` has no introspection."""
    guest = payload(assemble(FOR_EVER))
    machine = guest.machine
    try:
        guest.machine = type("Peer", (), {"facts": {"vmm": "qemu"}})()
        with pytest.raises(HarnessError, match="qemu has no introspection"):
            _ = guest.vm
    finally:
        guest.machine = machine


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ({"mode": "virtual"}, "no mode 'virtual'"),
        ({"memory": 1}, "does not fit into 1 MiB"),
        ({"base": 0x500}, "overlaps"),
        ({"registers": {"eax": 1}}, "no register 'eax'"),
        ({"vcpus": 100_000}, "vCPUs"),
        ({"memory": 0}, "memory of 0 MiB"),
    ],
    ids=str,
)
def test_invalid_argument_is_refused(
    payload: PayloadFactory, arguments: dict[str, Any], cause: str
) -> None:
    with pytest.raises(ProvisionError) as refused:
        payload(assemble(FOR_EVER), **arguments)
    assert cause in refused.value.cause
    assert refused.value.stage == "create"


def test_missing_or_invalid_source_is_an_error(payload: PayloadFactory, tmp_path: Path) -> None:
    with pytest.raises(ProvisionError, match="is not a file"):
        payload(tmp_path / "absent")
    with pytest.raises(ProvisionError, match="as fails: "):
        assemble("frobnicate %eax")


@pytest.mark.parametrize("length", [*range(5), 20, 52, 60, 100, -1])
def test_truncated_elf_file_is_refused(tmp_path: Path, length: int) -> None:
    whole = link("long", SAY_DATA, tmp_path).read_bytes()
    loaded = parse_elf(whole)
    assert {gpa for gpa, _, _ in loaded.segments} >= {0x20_0000, 0x30_0000}
    end = max(at + size for _, at, size in loaded.segments)
    truncated = whole[: end - 1 if length == -1 else length]
    with pytest.raises(ProvisionError, match="cannot be loaded"):
        parse_elf(truncated)


@pytest.mark.parametrize(
    ("at", "value", "what"),
    [
        (4, b"\3", "32 or 64 bits"),
        (5, b"\2", "little-endian"),
        (18, b"\xb7\0", "not x86"),
        (54, b"\x20\0", "program headers"),
        (56, b"\xff\xff", "program headers"),
        (56, b"\0\0", "no segment to load"),
    ],
)
def test_unsupported_elf_file_is_refused(tmp_path: Path, at: int, value: bytes, what: str) -> None:
    data = bytearray(link("long", SAY_DATA, tmp_path).read_bytes())
    data[at : at + len(value)] = value
    with pytest.raises(ProvisionError, match=what):
        parse_elf(bytes(data))


def test_bss_is_zero(payload: PayloadFactory) -> None:
    """A segment may have more memory than file content. The rest is zero."""
    code = assemble(HELLO + POWER_OFF, "long", 0x20_0000)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01".ljust(16, b"\0"),
        *(2, 62, 1, 0x20_0000, 64, 0, 0, 64, 56, 1, 0, 0, 0),
    )
    segment = struct.pack("<IIQQQQQQ", 1, 7, 120, 0x20_0000, 0x20_0000, len(code), 1 << 20, 4096)
    assert payload(header + segment + code).wait_end().reason == "power-off"
