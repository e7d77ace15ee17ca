"""One tile and two tiles for a short time: servers, load and accounting work together.

20 s say little about percentiles, so nothing is judged by a limit here. See test_knee.py.
"""

from __future__ import annotations

import pytest

from harness.plugin.fixtures import RecordSample
from suites.consolidation.experiment import MakeExperiment
from suites.consolidation.record import PointRecorder

TILES = (1, 2)
# The kernel counts the time of cgroups and of idle CPUs at different moments.
MAX_CPU_DIFFERENCE = 0.15
MIN_GUEST_SHARE = 0.5  # of the busy time of the guests' CPUs


@pytest.mark.exclusive_host
def test_smoke(make_experiment: MakeExperiment, record_sample: RecordSample) -> None:
    """A tile alone answers every request, no guest ends, and CPU time agrees with the host's."""
    experiment = make_experiment("smoke")
    recorder = PointRecorder(record_sample, experiment)
    for number, tiles in enumerate(TILES):
        experiment.measure(tiles)
        recorder.point(number)
        point = experiment.points[-1]
        assert len(point.results) == tiles * len(experiment.deployment.tile.guests)
        assert not point.ends
        if tiles == 1:
            assert [one for one in point.results if one.problem] == []
        busy = sum(point.loaded.guest_cpu.values())
        assert MIN_GUEST_SHARE * point.loaded.busy <= busy
        assert busy <= point.loaded.busy * (1 + MAX_CPU_DIFFERENCE)
