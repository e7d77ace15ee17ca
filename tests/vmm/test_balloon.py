"""virtio-balloon: pages that go back to the host, the target, the guest's statistics."""

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
from tests.vmm.driver import WRITE, Descriptor, Started
from tests.waiting import TIMEOUT, wait_until

SIZE = 16 << 20
STATS, ON_OOM, REPORTING = 1 << 1, 1 << 2, 1 << 5
INFLATE, DEFLATE = 0, 1
LIST, DATA = 0x20000, 0x800000


class Inflated:
    """A started balloon with its guest memory, all of it touched."""

    def __init__(self, shared: bool = False, features: int = STATS | ON_OOM | REPORTING) -> None:
        self.memory = Memory(SIZE, shared_file=create_memory_file() if shared else -1)
        self.memory.view(0, SIZE)[:] = b"x" * SIZE
        self.changes = 0
        self.balloon = Balloon(lambda error: None)
        self.balloon.config_changed = self.changed
        count = 2 + bool(features & STATS) + bool(features & REPORTING)
        self.started = Started(self.balloon, self.memory, count, features)

    def changed(self) -> None:
        self.changes += 1

    def ask(self, number: int, *descriptors: Descriptor) -> None:
        self.started.drivers[number].offer(list(descriptors))
        self.started.kick(number)
        self.started.wait(number)

    def pages(self, number: int, *pages: int) -> None:
        self.memory.write(LIST, struct.pack(f"<{len(pages)}I", *pages))
        self.ask(number, (LIST, 4 * len(pages), 0))

    def zero(self) -> list[int]:
        """Which pages of the data read as zero."""
        view = self.memory.view(DATA, SIZE - DATA)
        pages = range(0, len(view), PAGE)
        return [at // PAGE for at in pages if view[at : at + PAGE] == bytes(PAGE)]

    def fault(self) -> BaseException:
        assert wait_until(lambda: self.started.fail)
        return self.started.fail[0]


@pytest.fixture(params=[False, True], ids=["private", "shared"])
def inflated(request: pytest.FixtureRequest) -> Iterator[Inflated]:
    made = Inflated(shared=request.param)
    yield made
    made.started.close()


@pytest.fixture
def balloon() -> Iterator[Inflated]:
    made = Inflated()
    yield made
    made.started.close()


def resident(memory: Memory) -> int:
    """Bytes of guest memory that the host has pages for, as /proc/self/smaps tells."""
    (region,) = memory.regions
    inside = False
    with Path("/proc/self/smaps").open(encoding="ascii", errors="replace") as smaps:
        for line in smaps:
            if "-" in line.split(" ")[0]:
                inside = int(line.split("-")[0], 16) == region.hva
            elif inside and line.startswith("Rss:"):
                return int(line.split()[1]) << 10
    raise AssertionError("guest memory is no mapping of its own")


def test_inflated_pages_are_the_hosts_again(inflated: Inflated) -> None:
    before = resident(inflated.memory)
    first = DATA // PAGE
    inflated.pages(INFLATE, first + 5, first + 4, first + 700, first + 6, first + 4)
    assert inflated.zero() == [4, 5, 6, 700]
    inflated.pages(INFLATE, *range(first + 1024, first + 2048))
    assert before - resident(inflated.memory) >= 1024 * PAGE


def test_a_deflated_page_can_be_used(inflated: Inflated) -> None:
    inflated.pages(INFLATE, DATA // PAGE)
    inflated.pages(DEFLATE, DATA // PAGE)
    inflated.memory.write(DATA, b"new")
    assert bytes(inflated.memory.view(DATA, 4)) == b"new\0"


def test_reported_ranges_go_back_as_far_as_they_are_whole_pages(inflated: Inflated) -> None:
    inflated.ask(
        3,
        (DATA, 512 * PAGE, WRITE),
        (DATA + 600 * PAGE + 1, 3 * PAGE, WRITE),
        (DATA + 700 * PAGE, 0, WRITE),
        (DATA + 701 * PAGE, PAGE - 1, WRITE),
    )
    assert inflated.zero() == [*range(512), 601, 602]
    assert inflated.balloon.counters()["balloon_reported"] == 514 * PAGE


def test_a_clones_pages_leave_the_file_as_it_is() -> None:
    """Private memory on a file: what is discarded reads as the file again."""
    memory = Memory(1 << 20, shared_file=create_memory_file())
    (region,) = memory.regions
    memory.write(0, b"f" * PAGE)
    clone = type(region)(0, region.size, region.fd, 0, mmap.MAP_PRIVATE)
    memory.regions[0] = clone
    memory.write(0, b"c" * PAGE)
    assert memory.discard(memory.view(0, PAGE)) == PAGE
    assert bytes(memory.view(0, PAGE)) == b"f" * PAGE == bytes(region.bytes[:PAGE])


@pytest.mark.parametrize("page", [SIZE // PAGE, 1 << 20, 0xFFFF_FFFF])
def test_a_page_outside_of_memory_ends_the_guest(balloon: Inflated, page: int) -> None:
    balloon.memory.write(LIST, struct.pack("<II", DATA // PAGE, page))
    balloon.started.drivers[INFLATE].offer([(LIST, 8, 0)])
    balloon.started.kick(INFLATE)
    assert "outside guest memory" in str(balloon.fault())


@pytest.mark.parametrize(("number", "size"), [(INFLATE, 3), (INFLATE, 1 << 17), (2, 11)])
def test_lists_that_are_none_end_the_guest(balloon: Inflated, number: int, size: int) -> None:
    balloon.started.drivers[number].offer([(LIST, size, 0)])
    balloon.started.kick(number)
    error = balloon.fault()
    assert isinstance(error, GuestFault)
    assert f"virtio-balloon request of {size} bytes" in str(error)


# the target


def test_the_target_is_told_and_the_size_is_the_drivers(balloon: Inflated) -> None:
    balloon.balloon.set_target(8)
    assert (balloon.changes, balloon.balloon.config[:8]) == (1, struct.pack("<II", 2048, 0))
    balloon.balloon.write_config(4, struct.pack("<I", 1024))
    counters = balloon.balloon.counters()
    assert (counters["balloon_target"], counters["balloon_actual"]) == (8, 4)


def test_a_driver_writes_nothing_but_the_size(balloon: Inflated) -> None:
    balloon.balloon.set_target(8)
    before = bytes(balloon.balloon.config)
    for offset in range(0, 0x1000, 8):
        balloon.balloon.write_config(offset, b"\xff" * 8)
    after = balloon.balloon.config
    assert after == before[:4] + b"\xff" * 4 + before[8:]


# the guest's statistics

TOLD = struct.pack("<HQHQHQ", 4, 1000, 6, 2000, 99, 1)


def tell(balloon: Inflated, data: bytes) -> None:
    balloon.memory.write(LIST, data)
    balloon.started.drivers[2].offer([(LIST, len(data), 0)])
    balloon.started.kick(2)


def told(balloon: Inflated) -> dict[str, int]:
    known = ("balloon_target", "balloon_actual", "balloon_reported")
    return {key: value for key, value in balloon.balloon.counters().items() if key not in known}


def test_statistics_are_named_and_unknown_ones_dropped(balloon: Inflated) -> None:
    tell(balloon, TOLD)
    assert wait_until(lambda: told(balloon))
    assert told(balloon) == {"balloon_free_memory": 1000, "balloon_available_memory": 2000}


def test_the_buffer_comes_back_when_more_is_wanted(balloon: Inflated) -> None:
    tell(balloon, TOLD)
    assert wait_until(lambda: told(balloon))
    assert balloon.started.drivers[2].used == []

    def answer() -> None:
        balloon.started.wait(2)
        tell(balloon, struct.pack("<HQ", 4, 500))

    guest = threading.Thread(target=answer, daemon=True)
    guest.start()
    balloon.balloon.refresh()
    guest.join(TIMEOUT)
    assert told(balloon) == {"balloon_free_memory": 500}
    assert balloon.started.drivers[2].used == [0]


def test_a_guest_that_does_not_answer_holds_nobody_up(
    balloon: Inflated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.vmm.devices.virtio.balloon._STATISTICS_TIMEOUT", 0.01)
    balloon.balloon.refresh()  # it has given no buffer at all
    tell(balloon, TOLD)
    assert wait_until(lambda: told(balloon))
    balloon.balloon.refresh()
    balloon.balloon.refresh()
    assert told(balloon)["balloon_free_memory"] == 1000


def test_the_held_buffer_counts_as_not_taken_when_the_device_stops(balloon: Inflated) -> None:
    tell(balloon, TOLD)
    assert wait_until(lambda: told(balloon))
    bases = balloon.balloon.stop()
    assert bases[2] == 0
    balloon.balloon.refresh()
    again = [queue._replace(base=bases[queue.number]) for queue in balloon.started.queues]
    balloon.balloon._statistics = {}
    balloon.balloon.start(balloon.memory, again, STATS | REPORTING)
    assert wait_until(lambda: told(balloon))


def test_queues_move_up_where_a_feature_is_not_taken() -> None:
    made = Inflated(features=REPORTING)
    try:
        made.ask(2, (DATA, PAGE, WRITE))
        assert made.zero() == [0]
        made.balloon.refresh()
    finally:
        made.started.close()


def test_a_start_without_both_queues_ends_the_guest() -> None:
    made = Inflated()
    queues = made.started.queues
    made.balloon.stop()
    with pytest.raises(GuestFault, match="virtio-balloon started without its queues"):
        made.balloon.start(made.memory, queues[:1], 0)
    made.started.close()


def test_a_driver_that_offers_statistics_without_end_cannot_hold_up_a_reset(
    balloon: Inflated, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = threading.Event()
    available = balloon.started.drivers[2].ring.available

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
    assert not balloon.started.fail


def test_a_clone_goes_on_with_what_its_balloon_holds() -> None:
    origin, clone = Balloon(lambda error: None), Balloon(lambda error: None)
    origin.set_target(64)
    origin.write_config(4, struct.pack("<I", (32 << 20) // PAGE))
    assert clone.restore_config(origin.config)
    assert clone.counters()["balloon_target"] == 64
    assert clone.counters()["balloon_actual"] == 32
    assert not clone.restore_config(b"short")
