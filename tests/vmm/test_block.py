"""virtio-blk on a file. The test writes requests into guest memory as a driver does."""

from __future__ import annotations

import os
import random
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.kvm.errors import ConfigError, GuestFault
from harness.vmm.devices.virtio.block import Block
from harness.vmm.devices.virtio.queue import Chain, Queue
from harness.vmm.memory import Memory
from tests.vmm.driver import WRITE, Descriptor, Driver, RunningDevice, serve
from tests.vmm.fakes import RING
from tests.waiting import TIMEOUT

IN, OUT, FLUSH, GET_ID, DISCARD = 0, 1, 4, 8, 11
OK, IO_ERROR, UNSUPPORTED = 0, 1, 2
HEADER, STATUS, TABLE, DATA = 0x8000, 0x9000, 0xA000, 0x10000
MEMORY = Memory(1 << 20)
SECTORS = 64
CONTENT = random.Random(0).randbytes(512 * SECTORS)  # noqa: S311


class Disk(Driver):
    """A disk and its driver. The test handles requests instead of the device's thread."""

    def __init__(self, path: Path, readonly: bool = False) -> None:
        super().__init__(MEMORY)
        self.path = path
        self.ends: list[BaseException] = []
        self.block = Block(str(path), "root", readonly, False, self.ends.append)
        self.queue = Queue(MEMORY, RING, event_index=False)

    def serve(self) -> int:
        """Handle the posted request. Returns the bytes written to the guest."""
        return serve(self.block, self.queue)

    def ask(self, kind: int, sector: int, *buffers: Descriptor) -> tuple[int, int]:
        """Post and handle a request. Returns its status and the bytes written before it."""
        MEMORY.write(HEADER, struct.pack("<IIQ", kind, 0, sector))
        MEMORY.write(STATUS, b"\xff")
        self.offer([(HEADER, 16, 0), *buffers, (STATUS, 1, WRITE)])
        written = self.serve()
        return MEMORY.view(STATUS, 1)[0], written - 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def disk(path: Path) -> Iterator[Disk]:
    new_disk = Disk(path)
    yield new_disk
    os.close(new_disk.block._fd)


def test_read_fills_several_buffers(disk: Disk) -> None:
    buffers = [(DATA, 512, WRITE), (DATA + 0x4000, 1024, WRITE)]
    assert disk.ask(IN, 5, *buffers) == (OK, 1536)
    got = bytes(MEMORY.view(DATA, 512)) + bytes(MEMORY.view(DATA + 0x4000, 1024))
    assert got == CONTENT[5 * 512 : 8 * 512]


def test_write_takes_several_buffers(disk: Disk, path: Path) -> None:
    MEMORY.write(DATA, b"a" * 512)
    MEMORY.write(DATA + 0x4000, b"b" * 1024)
    assert disk.ask(OUT, 5, (DATA, 512, 0), (DATA + 0x4000, 1024, 0)) == (OK, 0)
    expected = CONTENT[: 5 * 512] + b"a" * 512 + b"b" * 1024 + CONTENT[8 * 512 :]
    assert path.read_bytes() == expected
    assert disk.ask(FLUSH, 0) == (OK, 0)


def test_request_may_cover_the_whole_disk_but_not_more(disk: Disk, path: Path) -> None:
    assert disk.ask(IN, 0, (DATA, 512 * SECTORS, WRITE)) == (OK, 512 * SECTORS)
    assert bytes(MEMORY.view(DATA, 512 * SECTORS)) == CONTENT
    assert disk.ask(IN, 1, (DATA, 512 * SECTORS, WRITE)) == (IO_ERROR, 0)


@pytest.mark.parametrize("sector", [SECTORS, SECTORS + 1, 1 << 55, (1 << 64) - 1])
def test_request_beyond_the_disk_is_an_io_error(disk: Disk, path: Path, sector: int) -> None:
    for kind, flags in ((IN, WRITE), (OUT, 0)):
        assert disk.ask(kind, sector, (DATA, 512, flags)) == (IO_ERROR, 0)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("length", [1, 511, 513])
def test_partial_sector_is_an_io_error(disk: Disk, path: Path, length: int) -> None:
    for kind, flags in ((IN, WRITE), (OUT, 0)):
        assert disk.ask(kind, 0, (DATA, length, flags)) == (IO_ERROR, 0)
    assert path.read_bytes() == CONTENT


def test_serial_number_is_cut_to_the_buffer(disk: Disk) -> None:
    MEMORY.write(DATA, b"x" * 32)
    assert disk.ask(GET_ID, 0, (DATA, 20, WRITE)) == (OK, 20)
    assert bytes(MEMORY.view(DATA, 21)) == b"root".ljust(20, b"\0") + b"x"
    assert disk.ask(GET_ID, 0, (DATA, 2, WRITE)) == (OK, 2)
    assert disk.ask(GET_ID, 0) == (UNSUPPORTED, 0)


@pytest.mark.parametrize("kind", [DISCARD, 13, 0xFFFF_FFFF])
def test_unknown_request_is_unsupported(disk: Disk, kind: int) -> None:
    assert disk.ask(kind, 0, (DATA, 512, 0)) == (UNSUPPORTED, 0)


def test_write_to_a_readonly_disk_is_an_io_error(path: Path) -> None:
    disk = Disk(path, readonly=True)
    assert disk.block.features & 1 << 5
    assert disk.ask(OUT, 0, (DATA, 512, 0)) == (IO_ERROR, 0)
    assert disk.ask(IN, 0, (DATA, 512, WRITE)) == (OK, 512)
    assert disk.ask(FLUSH, 0) == (OK, 0)
    assert path.read_bytes() == CONTENT


def test_configuration_space_has_capacity_and_block_size(disk: Disk) -> None:
    config = disk.block.config
    assert struct.unpack_from("<QII", config) == (SECTORS, 0, 126)
    assert struct.unpack_from("<I", config, 20) == (512,)


def test_header_and_status_may_be_split_across_descriptors(disk: Disk) -> None:
    """The device must not depend on descriptor boundaries (virtio 1.2, 2.7.4.1)."""
    MEMORY.write(HEADER, struct.pack("<IIQ", IN, 0, 7))
    halves = [(HEADER, 5, 0), (HEADER + 5, 0, 0), (HEADER + 5, 11, 0)]
    disk.offer([*halves, (DATA, 513, WRITE)])
    assert disk.serve() == 513
    assert bytes(MEMORY.view(DATA, 513)) == CONTENT[7 * 512 : 8 * 512] + b"\0"
    MEMORY.write(HEADER, struct.pack("<IIQ", OUT, 0, 3) + b"z" * 512)
    disk.offer([(HEADER, 528, 0), (STATUS, 1, WRITE)])
    assert disk.serve() == 1
    assert disk.path.read_bytes()[3 * 512 : 4 * 512] == b"z" * 512


def test_indirect_request_is_handled(disk: Disk) -> None:
    MEMORY.write(HEADER, struct.pack("<IIQ", IN, 0, 0))
    disk.offer([(HEADER, 16, 0), (DATA, 512, WRITE), (STATUS, 1, WRITE)], TABLE)
    assert disk.serve() == 513
    assert bytes(MEMORY.view(DATA, 512)) == CONTENT[:512]


@pytest.mark.parametrize(
    "descriptors",
    [
        [(HEADER, 16, 0)],
        [(STATUS, 1, WRITE)],
        [(HEADER, 15, 0), (STATUS, 1, WRITE)],
        [(HEADER, 16, 0), (STATUS, 0, WRITE)],
    ],
    ids=["no status", "no header", "short header", "empty status"],
)
def test_malformed_request_raises_guest_fault(disk: Disk, descriptors: list[Descriptor]) -> None:
    disk.offer(descriptors)
    with pytest.raises(GuestFault, match="virtio-blk"):
        disk.serve()


def test_read_of_a_truncated_file_is_an_io_error(disk: Disk, path: Path) -> None:
    os.truncate(path, 512 * 10)
    assert disk.ask(IN, 9, (DATA, 1024, WRITE)) == (IO_ERROR, 512)
    assert disk.ask(IN, 20, (DATA, 512, WRITE))[0] == IO_ERROR


# paths that cannot be a disk


@pytest.mark.parametrize("size", [0, 1, 511, 513])
def test_image_with_a_partial_sector_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "short"
    path.write_bytes(bytes(size))
    with pytest.raises(ConfigError, match=f"{size} bytes") as refused:
        Disk(path)
    assert "truncated" in refused.value.hint


@pytest.mark.parametrize("readonly", [True, False])
def test_path_that_is_not_a_disk_is_refused(tmp_path: Path, readonly: bool) -> None:
    for path in (tmp_path, tmp_path / "absent", Path("/dev/null")):
        with pytest.raises(ConfigError, match=str(path)):
            Disk(path, readonly)


def test_unreadable_file_is_refused(path: Path) -> None:
    path.chmod(0o444)
    if os.access(path, os.W_OK):
        pytest.skip("root may write everything")
    with pytest.raises(ConfigError, match="Permission"):
        Disk(path)


# the device's thread


@pytest.fixture
def running(path: Path) -> Iterator[RunningDevice]:
    block = Block(str(path), "root", False, False, lambda error: None)
    device = RunningDevice(block, MEMORY, 1)
    yield device
    device.close()
    os.close(block._fd)


def test_thread_handles_a_kick_and_signals(running: RunningDevice) -> None:
    MEMORY.write(HEADER, struct.pack("<IIQ", IN, 0, 2))
    before = running.device.requests
    for turn in range(3):
        MEMORY.write(DATA, bytes(512))
        running.drivers[0].offer([(HEADER, 16, 0), (DATA, 512, WRITE), (STATUS, 1, WRITE)])
        running.kick(0)
        running.wait(0)
        assert bytes(MEMORY.view(DATA, 512)) == CONTENT[1024:1536]
        assert running.device.requests == before + turn + 1
    assert not running.ends


def test_device_continues_after_a_stop(running: RunningDevice) -> None:
    before = threading.active_count()
    for _ in range(3):
        test_thread_handles_a_kick_and_signals(running)
        bases = running.device.stop()
        assert threading.active_count() == before - 1
        assert bases == {0: running.drivers[0].index}
        again = [queue._replace(base=bases[queue.number]) for queue in running.queues]
        running.device.start(MEMORY, again, 0)


def test_malformed_request_ends_the_thread_and_is_reported(running: RunningDevice) -> None:
    running.drivers[0].offer([(STATUS, 1, WRITE)])
    running.kick(0)
    thread = running.device._thread
    assert thread is not None
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    assert isinstance(running.ends[0], GuestFault)


def test_endless_requests_do_not_block_a_reset(
    running: RunningDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reset waits for the thread while it holds the machine's lock."""
    busy = threading.Event()

    def request(number: int, chain: Chain) -> int:
        busy.set()
        (index,) = struct.unpack("<H", MEMORY.view(RING.available + 2, 2))
        MEMORY.write(RING.available + 2, struct.pack("<H", (index + 1) & 0xFFFF))
        return 0

    monkeypatch.setattr(running.device, "_handle_request", request)
    running.drivers[0].offer([(STATUS, 1, WRITE)])
    running.kick(0)
    assert busy.wait(TIMEOUT)
    stopper = threading.Thread(target=running.device.stop, daemon=True)
    stopper.start()
    stopper.join(TIMEOUT)
    stuck = stopper.is_alive()
    monkeypatch.undo()
    assert not stuck


def test_start_without_a_queue_raises_guest_fault(disk: Disk) -> None:
    with pytest.raises(GuestFault, match="without its queue"):
        disk.block.start(MEMORY, [], 0)
