"""When a device must interrupt: the event index against what the specification says of one step."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.vmm.devices.virtio.queue import Chain, Queue
from harness.vmm.memory import Memory
from tests.vmm.fakes import RING

MEMORY = Memory(1 << 20)
CHAIN = Chain(0, [], [])


class Driver:
    """The words that a driver and a device tell each other by."""

    def __init__(self, event_index: bool = True) -> None:
        for address, length in zip(RING[1:], RING.lengths(), strict=True):
            MEMORY.view(address, length)[:] = bytes(length)
        self.queue = Queue(MEMORY, RING, event_index)
        available = MEMORY.view(RING.available, RING.lengths()[1]).cast("H")
        used = MEMORY.view(RING.used, RING.lengths()[2]).cast("H")
        self.available, self.used = available, used

    @property
    def index(self) -> int:
        return self.used[1]

    def want_after(self, index: int) -> None:
        """used_event: "interrupt me once you have written the element with this index"."""
        self.available[2 + RING.size] = index & 0xFFFF

    def push(self) -> bool:
        return self.queue.push(CHAIN, 0)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.sampled_from([1, 2, 7, 300])),
        st.tuples(st.just("ahead"), st.integers(-3, 5)),
        st.tuples(st.just("anywhere"), st.integers(0, 0xFFFF)),
    ),
    max_size=30,
)


@settings(max_examples=300, deadline=None)
@given(steps=steps)
def test_the_device_interrupts_when_it_passes_the_event_and_only_then(
    steps: list[tuple[str, int]],
) -> None:
    """virtio 1.2, 2.7.7.2: it must if the element just written has the index used_event, and
    should not otherwise."""
    driver, event = Driver(), 0
    for kind, value in steps:
        if kind == "push":
            for _ in range(value):
                index = driver.index
                assert driver.push() == (index == event)
        else:
            event = (driver.index + value if kind == "ahead" else value) & 0xFFFF
            driver.want_after(event)


def test_a_driver_that_slept_for_a_whole_turn_of_the_index_is_woken() -> None:
    driver = Driver()
    assert driver.push()
    driver.want_after(0)  # polls from here on: 0 is behind
    for _ in range(0xFFFF):
        wanted = driver.push()
        assert not wanted
    assert driver.index == 0
    driver.want_after(0)
    assert driver.push()


def test_without_the_feature_a_flag_decides() -> None:
    driver = Driver(event_index=False)
    driver.want_after(999)
    assert driver.push()
    driver.available[0] = 1  # VIRTQ_AVAIL_F_NO_INTERRUPT
    assert not driver.push()
    driver.available[0] = 0
    assert driver.push()


def test_the_device_asks_for_the_next_kick_only_when_it_has_taken_all() -> None:
    driver = Driver()
    avail_event = 2 + 4 * RING.size
    for index in (1, 2):
        MEMORY.write(RING.descriptors, b"\0\0\1\0".ljust(16, b"\0"))
        driver.available[1] = index
        taken = driver.queue.pop()
        next(taken)
        assert driver.used[avail_event] == index - 1
        assert list(taken) == []
        assert driver.used[avail_event] == index


def test_a_request_that_slips_in_while_the_device_rearms_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = Driver()
    MEMORY.write(RING.descriptors, b"\0\0\1\0".ljust(16, b"\0"))
    driver.available[1] = 1

    def late() -> None:
        """The driver's next request at the worst moment: it has seen the old avail_event."""
        driver.available[1] = 2

    monkeypatch.setattr(driver.queue, "_barrier", late)
    assert len(list(driver.queue.pop())) == 2
