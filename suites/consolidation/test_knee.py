"""How many tiles fit on the host: the reference of one tile alone, then the search for the knee.

The knee N* is the largest number of tiles with which every guest stays within its limit. The limits
follow from three reference runs. Units: ms; tiles; servers.
"""

from __future__ import annotations

from functools import partial

import pytest

from harness.plugin.fixtures import RecordSample
from suites.consolidation.experiment import Experiment, MakeExperiment
from suites.consolidation.record import PointRecorder
from suites.consolidation.search import Growth, Knee, find_knee, most_pass

REFERENCE_RUNS = 3
GROWTH: dict[str, Growth] = {"short": "by half", "full": "doubling"}
QUARTERS_BELOW = {"short": 4, "full": 8}  # tiles
MAX_TILES = {"short": 64, "full": 1024}


@pytest.mark.long
@pytest.mark.exclusive_host
def test_knee(
    make_experiment: MakeExperiment, record_sample: RecordSample, virt_profile: str
) -> None:
    """The search, with samples of every point. At least one tile must fit."""
    experiment = make_experiment(virt_profile)
    if reason := blocker(experiment, 1, MAX_TILES[virt_profile]):
        pytest.fail(f"one tile does not fit: {reason}; hint: use a smaller one by --virt-tile")
    recorder = PointRecorder(record_sample, experiment)
    try:
        problem = experiment.measure_reference(REFERENCE_RUNS)
        assert not problem, problem
        recorder.reference(experiment.reference)
        knee = find_knee(
            experiment.measure,
            lambda tiles: blocker(experiment, tiles, MAX_TILES[virt_profile]),
            growth=GROWTH[virt_profile],
            known=1,
            known_fresh=experiment.deployment.method == "clone",
        )
        if knee.limited_by:
            experiment.progress(f"the search ended early: {knee.limited_by}")
        part = 0.0
        try:
            part = quarters(experiment, knee, QUARTERS_BELOW[virt_profile])
        finally:
            recorder.knee(knee, knee.tiles + part)
    finally:
        recorder.points()
    assert knee.tiles >= 1


def blocker(experiment: Experiment, tiles: int, most: int) -> str:
    """Why so many tiles cannot be deployed, or ""."""
    if tiles > most:
        return f"the search ends at {most} tiles"
    if reason := experiment.deployment.memory_blocker(experiment.host, tiles):
        return reason
    reason = experiment.generator.blocker(
        experiment.deployment.tile.targets * tiles, experiment.phases.schedule
    )
    return f"the load generator: {reason}" if reason else ""


def quarters(experiment: Experiment, knee: Knee, below: int) -> float:
    """The share of a tile's load that fits beside the knee: 0, 0.25, 0.5 or 0.75.

    A search that ended without a failure, or at many tiles, has none.
    """
    if knee.limited_by or not 0 < knee.tiles < below:
        return 0.0
    fits = 0.0
    for share in (0.5, 0.25, 0.75):
        if (share == 0.25 and fits) or (share == 0.75 and not fits):
            continue
        if most_pass(partial(experiment.measure, knee.tiles, extra=share)):
            fits = share
    return fits
