"""Fixtures: a supervisor's process, and those of the VMM's tests."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil
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
from tests.waiting import wait_until

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
def shared_agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    supervisor = AgentProcess(tmp_path_factory.mktemp("supervisor"))
    yield supervisor
    assert supervisor.close() == 0
    assert supervisor.errors.read_text() == ""


@pytest.fixture
def agent(shared_agent: AgentProcess) -> Iterator[AgentProcess]:
    """A supervisor shared by all tests that do not end it. A failed test's guests end with it."""
    yield shared_agent
    process = psutil.Process(shared_agent.process.pid)
    for child in process.children():
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    assert wait_until(lambda: not process.children())


@pytest.fixture
def own_agent(tmp_path: Path) -> Iterator[AgentProcess]:
    supervisor = AgentProcess(tmp_path)
    yield supervisor
    supervisor.close()
