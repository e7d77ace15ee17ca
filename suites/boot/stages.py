"""The stages that a boot reached, as samples."""

from __future__ import annotations

from harness.guest.guest import Guest
from harness.guest.timeline import STAGES
from harness.plugin.fixtures import RecordSample


def record(keep: RecordSample, guest: Guest, metric: str, boot: int) -> dict[str, float]:
    """Keep one sample a stage, named after `metric`; their seconds, in the stages' order."""
    parameters = {"vcpus": guest.spec.vcpus, "memory": guest.spec.memory}
    reached = filter(guest.timeline.reached, STAGES[1:])
    seconds = {stage: guest.timeline.seconds(stage) for stage in reached}
    for stage, value in seconds.items():
        keep(f"{metric}.{stage}", value, "s", "lower", parameters, boot=boot)
    return seconds
