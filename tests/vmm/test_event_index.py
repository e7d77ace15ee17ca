"""Event indices: when the device must interrupt the driver, and the driver kick the device."""

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
    """A driver's rings and event words."""

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
        """Set used_event: interrupt when the element with this index is written."""
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
def test_device_interrupts_only_when_it_passes_the_event(
    steps: list[tuple[str, int]],
) -> None:
    """The device must interrupt if the element just written has the index used_event, and should
    not otherwise (virtio 1.2, 2.7.7.2)."""
    driver, event = Driver(), 0
    for kind, value in steps:
        if kind == "push":
            for _ in range(value):
                index = driver.index
                assert driver.push() == (index == event)
        else:
            event = (driver.index + value if kind == "ahead" else value) & 0xFFFF
            driver.want_after(event)


def test_interrupt_after_the_index_wraps() -> None:
    driver = Driver()
    assert driver.push()
    driver.want_after(0)  # the driver polls: index 0 is in the past
    for _ in range(0xFFFF):
        interrupt = driver.push()
        assert not interrupt
    assert driver.index == 0
    driver.want_after(0)
    assert driver.push()


def test_flag_suppresses_interrupts_without_event_index() -> None:
    driver = Driver(event_index=False)
    driver.want_after(999)
    assert driver.push()
    driver.available[0] = 1  # VIRTQ_AVAIL_F_NO_INTERRUPT
    assert not driver.push()
    driver.available[0] = 0
    assert driver.push()


def test_kicks_are_rearmed_after_the_last_request() -> None:
    driver = Driver()
    avail_event = 2 + 4 * RING.size
    for index in (1, 2):
        MEMORY.write(RING.descriptors, b"\0\0\1\0".ljust(16, b"\0"))
        driver.available[1] = index
        requests = driver.queue.pop()
        next(requests)
        assert driver.used[avail_event] == index - 1
        assert list(requests) == []
        assert driver.used[avail_event] == index


def test_request_during_rearming_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = Driver()
    MEMORY.write(RING.descriptors, b"\0\0\1\0".ljust(16, b"\0"))
    driver.available[1] = 1

    def late() -> None:
        """Post a request at the worst moment: the driver has read the old avail_event."""
        driver.available[1] = 2

    monkeypatch.setattr(driver.queue, "_barrier", late)
    assert len(list(driver.queue.pop())) == 2
