"""virtio-balloon: freed pages, the target, the guest's statistics."""

from __future__ import annotations

import mmap
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.kvm.errors import GuestFault
from harness.vmm.devices.virtio.balloon import Balloon
from harness.vmm.devices.virtio.queue import Chain
from harness.vmm.memory import PAGE, Memory, create_memory_file
from tests.vmm.driver import WRITE, Descriptor, RunningDevice
from tests.waiting import TIMEOUT, wait_until

SIZE = 16 << 20
STATS, ON_OOM, REPORTING = 1 << 1, 1 << 2, 1 << 5
INFLATE, DEFLATE = 0, 1
LIST, DATA = 0x20000, 0x800000


class BalloonDriver:
    """A running balloon and its driver; all guest memory was touched."""

    def __init__(self, shared: bool = False, features: int = STATS | ON_OOM | REPORTING) -> None:
        self.memory = Memory(SIZE, shared_file=create_memory_file() if shared else -1)
        self.memory.view(0, SIZE)[:] = b"x" * SIZE
        self.changes = 0
        self.balloon = Balloon(lambda error: None)
        self.balloon.config_changed = self.changed
        count = 2 + bool(features & STATS) + bool(features & REPORTING)
        self.running = RunningDevice(self.balloon, self.memory, count, features)

    def changed(self) -> None:
        self.changes += 1

    def ask(self, number: int, *descriptors: Descriptor) -> None:
        self.running.drivers[number].offer(list(descriptors))
        self.running.kick(number)
        self.running.wait(number)

    def pages(self, number: int, *pages: int) -> None:
        self.memory.write(LIST, struct.pack(f"<{len(pages)}I", *pages))
        self.ask(number, (LIST, 4 * len(pages), 0))

    def zero(self) -> list[int]:
        """The data pages that read as zero."""
        view = self.memory.view(DATA, SIZE - DATA)
        pages = range(0, len(view), PAGE)
        return [at // PAGE for at in pages if view[at : at + PAGE] == bytes(PAGE)]

    def fault(self) -> BaseException:
        assert wait_until(lambda: self.running.ends)
        return self.running.ends[0]


@pytest.fixture(params=[False, True], ids=["private", "shared"])
def balloon_driver(request: pytest.FixtureRequest) -> Iterator[BalloonDriver]:
    new_driver = BalloonDriver(shared=request.param)
    yield new_driver
    new_driver.running.close()


@pytest.fixture
def balloon() -> Iterator[BalloonDriver]:
    new_driver = BalloonDriver()
    yield new_driver
    new_driver.running.close()


def resident(memory: Memory) -> int:
    """The resident bytes of guest memory (/proc/self/smaps)."""
    (region,) = memory.regions
    inside = False
    with Path("/proc/self/smaps").open(encoding="ascii", errors="replace") as smaps:
        for line in smaps:
            if "-" in line.split(" ")[0]:
                inside = int(line.split("-")[0], 16) == region.hva
            elif inside and line.startswith("Rss:"):
                return int(line.split()[1]) << 10
    raise AssertionError("guest memory is no mapping of its own")


def test_inflating_frees_host_memory(balloon_driver: BalloonDriver) -> None:
    before = resident(balloon_driver.memory)
    first = DATA // PAGE
    balloon_driver.pages(INFLATE, first + 5, first + 4, first + 700, first + 6, first + 4)
    assert balloon_driver.zero() == [4, 5, 6, 700]
    balloon_driver.pages(INFLATE, *range(first + 1024, first + 2048))
    assert before - resident(balloon_driver.memory) >= 1024 * PAGE


def test_deflated_page_is_usable(balloon_driver: BalloonDriver) -> None:
    balloon_driver.pages(INFLATE, DATA // PAGE)
    balloon_driver.pages(DEFLATE, DATA // PAGE)
    balloon_driver.memory.write(DATA, b"new")
    assert bytes(balloon_driver.memory.view(DATA, 4)) == b"new\0"


def test_reported_ranges_free_their_whole_pages(balloon_driver: BalloonDriver) -> None:
    balloon_driver.ask(
        3,
        (DATA, 512 * PAGE, WRITE),
        (DATA + 600 * PAGE + 1, 3 * PAGE, WRITE),
        (DATA + 700 * PAGE, 0, WRITE),
        (DATA + 701 * PAGE, PAGE - 1, WRITE),
    )
    assert balloon_driver.zero() == [*range(512), 601, 602]
    assert balloon_driver.balloon.counters()["balloon_reported"] == 514 * PAGE


def test_discarded_clone_pages_read_as_the_file() -> None:
    """Private memory on a file: discarded pages read as the file."""
    memory = Memory(1 << 20, shared_file=create_memory_file())
    (region,) = memory.regions
    memory.write(0, b"f" * PAGE)
    clone = type(region)(0, region.size, region.fd, 0, mmap.MAP_PRIVATE)
    memory.regions[0] = clone
    memory.write(0, b"c" * PAGE)
    assert memory.discard(memory.view(0, PAGE)) == PAGE
    assert bytes(memory.view(0, PAGE)) == b"f" * PAGE == bytes(region.bytes[:PAGE])


@pytest.mark.parametrize("page", [SIZE // PAGE, 1 << 20, 0xFFFF_FFFF])
def test_page_outside_memory_raises_guest_fault(balloon: BalloonDriver, page: int) -> None:
    balloon.memory.write(LIST, struct.pack("<II", DATA // PAGE, page))
    balloon.running.drivers[INFLATE].offer([(LIST, 8, 0)])
    balloon.running.kick(INFLATE)
    assert "outside guest memory" in str(balloon.fault())


@pytest.mark.parametrize(("number", "size"), [(INFLATE, 3), (INFLATE, 1 << 17), (2, 11)])
def test_malformed_page_list_raises_guest_fault(
    balloon: BalloonDriver, number: int, size: int
) -> None:
    balloon.running.drivers[number].offer([(LIST, size, 0)])
    balloon.running.kick(number)
    error = balloon.fault()
    assert isinstance(error, GuestFault)
    assert f"virtio-balloon request of {size} bytes" in str(error)


# the target


def test_controller_sets_target_and_driver_sets_size(balloon: BalloonDriver) -> None:
    balloon.balloon.set_target(8)
    assert (balloon.changes, balloon.balloon.config[:8]) == (1, struct.pack("<II", 2048, 0))
    balloon.balloon.write_config(4, struct.pack("<I", 1024))
    counters = balloon.balloon.counters()
    assert (counters["balloon_target"], counters["balloon_actual"]) == (8, 4)


def test_driver_can_write_the_size_only(balloon: BalloonDriver) -> None:
    balloon.balloon.set_target(8)
    before = bytes(balloon.balloon.config)
    for offset in range(0, 0x1000, 8):
        balloon.balloon.write_config(offset, b"\xff" * 8)
    after = balloon.balloon.config
    assert after == before[:4] + b"\xff" * 4 + before[8:]


# the guest's statistics

TOLD = struct.pack("<HQHQHQ", 4, 1000, 6, 2000, 99, 1)


def tell(balloon: BalloonDriver, data: bytes) -> None:
    balloon.memory.write(LIST, data)
    balloon.running.drivers[2].offer([(LIST, len(data), 0)])
    balloon.running.kick(2)


def guest_statistics(balloon: BalloonDriver) -> dict[str, int]:
    own_counters = ("balloon_target", "balloon_actual", "balloon_reported")
    return {
        key: value for key, value in balloon.balloon.counters().items() if key not in own_counters
    }


def test_statistics_have_names_and_unknown_tags_are_dropped(balloon: BalloonDriver) -> None:
    tell(balloon, TOLD)
    assert wait_until(lambda: guest_statistics(balloon))
    assert guest_statistics(balloon) == {
        "balloon_free_memory": 1000,
        "balloon_available_memory": 2000,
    }


def test_refresh_returns_the_statistics_buffer(balloon: BalloonDriver) -> None:
    tell(balloon, TOLD)
    assert wait_until(lambda: guest_statistics(balloon))
    assert balloon.running.drivers[2].used == []

    def answer() -> None:
        balloon.running.wait(2)
        tell(balloon, struct.pack("<HQ", 4, 500))

    guest = threading.Thread(target=answer, daemon=True)
    guest.start()
    balloon.balloon.refresh()
    guest.join(TIMEOUT)
    assert guest_statistics(balloon) == {"balloon_free_memory": 500}
    assert balloon.running.drivers[2].used == [0]


def test_refresh_times_out_without_an_answer(
    balloon: BalloonDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.vmm.devices.virtio.balloon._STATISTICS_TIMEOUT", 0.01)
    balloon.balloon.refresh()  # the driver has posted no buffer
    tell(balloon, TOLD)
    assert wait_until(lambda: guest_statistics(balloon))
    balloon.balloon.refresh()
    balloon.balloon.refresh()
    assert guest_statistics(balloon)["balloon_free_memory"] == 1000


def test_stop_leaves_the_statistics_buffer_available(balloon: BalloonDriver) -> None:
    tell(balloon, TOLD)
    assert wait_until(lambda: guest_statistics(balloon))
    bases = balloon.balloon.stop()
    assert bases[2] == 0
    balloon.balloon.refresh()
    again = [queue._replace(base=bases[queue.number]) for queue in balloon.running.queues]
    balloon.balloon._statistics = {}
    balloon.balloon.start(balloon.memory, again, STATS | REPORTING)
    assert wait_until(lambda: guest_statistics(balloon))


def test_queue_numbers_skip_features_that_were_not_accepted() -> None:
    new_driver = BalloonDriver(features=REPORTING)
    try:
        new_driver.ask(2, (DATA, PAGE, WRITE))
        assert new_driver.zero() == [0]
        new_driver.balloon.refresh()
    finally:
        new_driver.running.close()


def test_start_without_both_queues_raises_guest_fault() -> None:
    new_driver = BalloonDriver()
    queues = new_driver.running.queues
    new_driver.balloon.stop()
    with pytest.raises(GuestFault, match="virtio-balloon started without its queues"):
        new_driver.balloon.start(new_driver.memory, queues[:1], 0)
    new_driver.running.close()


def test_endless_statistics_do_not_block_a_reset(
    balloon: BalloonDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = threading.Event()
    available = balloon.running.drivers[2].ring.available

    def complete(number: int, chain: Chain, written: int) -> None:
        busy.set()
        (index,) = struct.unpack("<H", balloon.memory.view(available + 2, 2))
        balloon.memory.write(available + 2, struct.pack("<H", (index + 1) & 0xFFFF))

    monkeypatch.setattr(balloon.balloon, "_complete", complete)
    for _ in range(2):
        tell(balloon, TOLD)
    assert busy.wait(TIMEOUT)
    stopper = threading.Thread(target=balloon.balloon.stop, daemon=True)
    stopper.start()
    stopper.join(TIMEOUT)
    stuck = stopper.is_alive()
    monkeypatch.undo()
    assert not stuck
    assert not balloon.running.ends


def test_clone_restores_balloon_size() -> None:
    origin, clone = Balloon(lambda error: None), Balloon(lambda error: None)
    origin.set_target(64)
    origin.write_config(4, struct.pack("<I", (32 << 20) // PAGE))
    assert clone.restore_config(origin.config)
    assert clone.counters()["balloon_target"] == 64
    assert clone.counters()["balloon_actual"] == 32
    assert not clone.restore_config(b"short")
