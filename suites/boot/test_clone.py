"""How long a clone takes to come up, beside the boot that it spares; and many guests at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.guest.factory import GuestFactory, ready
from harness.guest.timeline import CLONE_STAGES
from harness.plugin.fixtures import RecordSample

pytestmark = pytest.mark.requires_vm
CLONES = 4  # of one origin
MEMORY = 128  # MiB
AT_ONCE = 3


@pytest.mark.only_hypervisors("kvm")
def test_clone(guest_factory: GuestFactory, record_sample: RecordSample, boot: int) -> None:
    """Create to restored, adopted (its identity is its own) and ready: of the first clone of a
    snapshot, and of those that know by it what they will write."""
    origin = guest_factory("origin", memory=MEMORY)
    origin.ssh.cut()
    with origin.snapshot() as taken:
        origin.stop()
        for batch in range(CLONES):
            clone = guest_factory.clone(taken, "clone")
            parameters: dict[str, int | str] = {
                "vcpus": origin.spec.vcpus,
                "memory": MEMORY,
                "clone": "later" if batch else "first",
            }
            seconds = [clone.timeline.seconds(stage) for stage in CLONE_STAGES[1:]]
            assert sorted(seconds) == seconds
            for stage, value in zip(CLONE_STAGES[1:], seconds, strict=True):
                metric = f"boot.clone.{stage}"
                record_sample(metric, value, "s", "lower", parameters, boot=boot, batch=batch)
            clone.stop()


def test_at_once(guest_factory: GuestFactory, record_sample: RecordSample, boot: int) -> None:
    """Several guests that are started together: from the first one's creation until SSH has logged
    in to the last one."""
    made = [guest_factory.launch("crowd", memory=MEMORY) for _ in range(AT_ONCE)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        marks = [guest.timeline.marks for guest in pool.map(ready, made)]
    took = (max(one["ready"] for one in marks) - min(one["create"] for one in marks)) / 1e9
    parameters = {"guests": AT_ONCE, "memory": MEMORY}
    record_sample("boot.at_once", took, "s", "lower", parameters, boot=boot)
    for guest in made:
        guest.stop()
