from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.hosts.local import LocalHost
from harness.hypervisors.agent_client import AgentClient
from tests.vmm.guests import Runner


@contextlib.contextmanager
def supervising() -> Iterator[AgentClient]:
    """A supervisor on this machine during the block."""
    host = LocalHost("tests")
    running = AgentClient(host)
    yield running
    running.close()
    host.close()


@pytest.fixture(scope="session")
def kvm_device() -> str:
    """/dev/kvm of this machine: real, or one that runs flat payloads only."""
    path = "/dev/kvm"
    if not os.access(path, os.R_OK | os.W_OK):
        pytest.skip(f"{path} cannot be opened")
    for program in ("as", "ld", "objcopy"):
        if not shutil.which(program):
            pytest.skip(f"no {program} to build a payload with (binutils)")
    return path


@pytest.fixture(scope="session")
def shared_supervisor() -> Iterator[AgentClient]:
    """A supervisor for all tests that do not end it. It needs no KVM."""
    with supervising() as running:
        yield running


@pytest.fixture
def supervisor(kvm_device: str, shared_supervisor: AgentClient) -> AgentClient:
    """The shared supervisor, on a machine with KVM."""
    return shared_supervisor


@pytest.fixture
def run(supervisor: AgentClient, tmp_path: Path) -> Iterator[Runner]:
    """Starts payloads."""
    runner = Runner(supervisor, tmp_path)
    yield runner
    runner.close()


@pytest.fixture
def external_vmms(shared_supervisor: AgentClient, tmp_path: Path) -> Iterator[Runner]:
    """Starts any program in place of a VMM. It needs no KVM."""
    runner = Runner(shared_supervisor, tmp_path)
    yield runner
    runner.close()


@pytest.fixture
def own_supervisor(kvm_device: str) -> Iterator[AgentClient]:
    """A supervisor that the test may end."""
    with supervising() as running:
        yield running


@pytest.fixture
def own_run(own_supervisor: AgentClient, tmp_path: Path) -> Runner:
    return Runner(own_supervisor, tmp_path)
