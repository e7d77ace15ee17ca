"""Records the stages of a guest's boot timeline, in seconds since its creation."""

from __future__ import annotations

from harness.guest.guest import Guest
from harness.guest.timeline import STAGES
from harness.plugin.fixtures import RecordSample


def record(record_sample: RecordSample, guest: Guest, metric: str, boot: int) -> dict[str, float]:
    """Record one sample for each stage that the guest reached, as `metric`.STAGE.

    Returns the seconds of each stage, in the stages' order.
    """
    parameters = {"vcpus": guest.spec.vcpus, "memory": guest.spec.memory}
    reached = filter(guest.timeline.reached, STAGES[1:])
    seconds = {stage: guest.timeline.seconds(stage) for stage in reached}
    for stage, value in seconds.items():
        record_sample(f"{metric}.{stage}", value, "s", "lower", parameters, boot=boot)
    return seconds
