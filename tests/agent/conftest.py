"""Fixtures: a supervisor's process, and those of the VMM's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.agent_process import AgentProcess
from tests.vmm.conftest import (
    external_vmms,
    kvm_device,
    own_run,
    own_supervisor,
    run,
    shared_supervisor,
    supervisor,
)

__all__ = [
    "external_vmms",
    "kvm_device",
    "own_run",
    "own_supervisor",
    "run",
    "shared_supervisor",
    "supervisor",
]


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    """A supervisor shared by all tests that do not end it."""
    supervisor = AgentProcess(tmp_path_factory.mktemp("supervisor"))
    yield supervisor
    assert supervisor.close() == 0
    assert supervisor.errors.read_text() == ""


@pytest.fixture
def own_agent(tmp_path: Path) -> Iterator[AgentProcess]:
    supervisor = AgentProcess(tmp_path)
    yield supervisor
    supervisor.close()
