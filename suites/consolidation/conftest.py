"""Fixtures of the consolidation suite: the tile, the workload image, the experiment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from harness.guest.factory import GuestFactory
from harness.hosts.base import Host
from harness.plugin.fixtures import RecordSample
from harness.plugin.session import Session
from images.image import GuestImage
from images.store import workload_image as build_workload_image
from suites.consolidation.deployment import Deployment, split_cpus
from suites.consolidation.experiment import PHASES, Experiment, MakeExperiment
from suites.consolidation.generator import LoadGenerator
from suites.consolidation.tile import STANDARD, Tile, load_tile

SEED = 20_260_000


@pytest.fixture(scope="session")
def workload_image(harness_session: Session) -> GuestImage:
    """The guest image with servers, built when the first test needs it."""
    progress = harness_session.progress
    with progress.stage("workload image"):
        return build_workload_image(progress)


@pytest.fixture
def record_sample(record_sample: RecordSample, workload_image: GuestImage) -> RecordSample:
    """Samples name the image with servers, which all guests of this suite boot."""
    return partial(record_sample, image=workload_image)


@pytest.fixture
def tile(virt_host: Host, pytestconfig: pytest.Config) -> Tile:
    """The tile of --virt-tile, with the rates for this class of hosts."""
    path: Path = pytestconfig.getoption("--virt-tile") or STANDARD
    return load_tile(path, "emulated" if virt_host.emulated else "hardware")


@pytest.fixture
def make_experiment(
    guest_factory: GuestFactory,
    virt_host: Host,
    workload_image: GuestImage,
    tile: Tile,
    harness_session: Session,
    request: pytest.FixtureRequest,
) -> Iterator[MakeExperiment]:
    """`make_experiment("short")`: experiments whose guests end with the test."""
    guest_cpus, generator_cpus = split_cpus(virt_host.facts)
    if not guest_cpus:
        pytest.skip(
            f"the load generator needs a core of its own, and {virt_host.name} has one core"
        )
    name, numbers = f"{guest_factory.hypervisor.name}-{request.node.originalname}", count(1)
    histograms = harness_session.context.run_directory / "histograms"
    with ExitStack() as stack:

        def make(
            phases: str, own_tile: Tile | None = None, *, mergeable: bool = False
        ) -> Experiment:
            chosen = PHASES[phases]
            generator = LoadGenerator(guest_factory, workload_image, generator_cpus)
            stack.callback(generator.close)
            deployment = Deployment(
                guest_factory,
                workload_image,
                own_tile or tile,
                guest_cpus,
                generator if chosen.warm_up else None,
                mergeable=mergeable,
            )
            stack.callback(deployment.close)
            folder = histograms / f"{name}-{next(numbers)}"
            return Experiment(deployment, generator, chosen, SEED, harness_session.progress, folder)

        yield make
