"""virtio-pmem: a payload reads a file as memory."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from harness.errors import ProvisionError
from harness.kvm.errors import ConfigError, GuestFault
from harness.vmm.devices.virtio.pmem import Pmem
from harness.vmm.devices.virtio.queue import Chain
from harness.vmm.memory import GAP_END, GAP_START, Memory
from tests.vmm.guests import Runner
from tests.vmm.payload import FOR_EVER, POWER_OFF
from tests.vmm.test_payload_disk import source

START = 128 << 20  # the first section above the payloads' 64 MiB
TEXT = b"from the file\n"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(TEXT.ljust(5000, b"\xff"))
    return path


class Kvm:
    bits = 46

    def physical_bits(self) -> int:
        return self.bits


class FakeVm:
    """A VM that accepts any memslot."""

    def __init__(self) -> None:
        self.kvm = Kvm()

    def add_memory(self, gpa: int, size: int, hva: int, readonly: bool = False) -> None:
        assert readonly


def create_pmem(path: Path, size: int = 64 << 20, bits: int = 46) -> Pmem:
    vm = FakeVm()
    vm.kvm.bits = bits
    return Pmem(vm, Memory(size), str(path), lambda error: None)  # type: ignore[arg-type]


def test_file_is_readable_memory_and_is_never_written(run: Runner, image: Path) -> None:
    body = f"""
        say {START} {len(TEXT)}
        movl $1, {START}                        /* dropped */
        cmpl $0x6d6f7266, {START} ; jne 2f      /* "from" */
        cmpl $-1, {START} + 4996 ; jne 2f
        cmpl $0, {START} + 5000 ; jne 2f        /* past the file's end */
        cmpl $0, {START} + 0x1ffffc ; jne 2f
        cmpl $-1, {START} + 0x200000 ; jne 2f   /* unclaimed */
        say again 6
    2:
    """
    guest = run(source(body) + POWER_OFF + FOR_EVER, pmem=str(image))
    assert guest.end().reason == "power-off"
    assert guest.lines == ["from the file", "again"]
    assert image.read_bytes().startswith(TEXT)
    assert guest.machine.facts["devices"][0] == "virtio-pmem (in process)"


def test_flush_succeeds(run: Runner, image: Path) -> None:
    body = """
        movl $0, HEADER ; movl $-1, STATUS
        movl $HEADER, QUEUE ; movl $4, QUEUE + 8 ; movl $0x00010001, QUEUE + 12
        movl $STATUS, QUEUE + 16 ; movl $4, QUEUE + 24 ; movl $2, QUEUE + 28
        movw $1, AVAILABLE + 2 ; mov $NOTIFY, %dx ; xor %eax, %eax ; out %ax, %dx
    1:  cmpw $1, USED + 2 ; jne 1b
        cmpl $0, STATUS ; jne 2f
        say again 6
    2:
    """
    guest = run(source(body) + POWER_OFF + FOR_EVER, pmem=str(image))
    assert guest.end().reason == "power-off"
    assert guest.lines == ["again"]


def test_other_requests_fail(image: Path) -> None:
    device, answer = create_pmem(image), memoryview(bytearray(4))
    assert device._handle_request(0, Chain(0, [memoryview(struct.pack("<I", 7))], [answer])) == 4
    assert answer == struct.pack("<I", 1)
    whole, part = memoryview(bytearray(4)), memoryview(bytearray(3))
    for readable, writable in (([], [whole]), ([part], [whole]), ([whole], []), ([whole], [part])):
        with pytest.raises(GuestFault, match="without type or status"):
            device._handle_request(0, Chain(0, readable, writable))


def test_address_is_above_memory_and_outside_the_gap(image: Path) -> None:
    for size, start in ((64 << 20, START), (GAP_START, GAP_END), (4 << 30, GAP_END + (1 << 30))):
        device = create_pmem(image, size)
        assert struct.unpack("<QQ", device.config) == (start, 2 << 20)
        assert (device.region.gpa, device.region.size) == (start, 2 << 20)


def test_unaddressable_pmem_is_refused(image: Path) -> None:
    with pytest.raises(ConfigError, match="does not fit above guest memory"):
        create_pmem(image, GAP_START, bits=32)


@pytest.mark.parametrize(("path", "cause"), [("/none", "No such file"), ("/tmp", "neither a file")])
def test_invalid_path_is_refused(run: Runner, path: str, cause: str) -> None:
    with pytest.raises(ProvisionError, match=f"pmem {path}: {cause}"):
        run(FOR_EVER, pmem=path)


def test_empty_file_is_refused(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(ProvisionError, match="is empty"):
        run(FOR_EVER, pmem=str(tmp_path / "empty"))
