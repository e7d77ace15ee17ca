"""Fixtures of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.hosts.emulated import EmulatedHost
from images.store import host_image
from tests.sshd import LoopbackServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LoopbackServer]:
    """A real SSH server that knows one client key."""
    folder = tmp_path / "sshd"
    folder.mkdir()
    running = LoopbackServer(folder)
    yield running
    running.close()


@pytest.fixture(scope="session")
def emulated_host() -> Iterator[EmulatedHost]:
    """One emulated host for all tests that only use it."""
    host = EmulatedHost(host_image())
    yield host
    host.close()
