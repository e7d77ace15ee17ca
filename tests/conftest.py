"""What the harness's own tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.hosts.base import Host
from harness.session import session_of
from tests.sshd import LoopbackServer


@pytest.fixture(scope="session")
def emulated_host(pytestconfig: pytest.Config) -> Iterator[Host]:
    """The emulated host, one a session: the plugin's own where that is emulated."""
    session = session_of(pytestconfig)
    session.start()
    if session.host is not None and session.host.emulated:
        yield session.host
        return
    from harness.hosts.select import select_host

    host = select_host("emulated", session.progress)
    yield host
    host.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LoopbackServer]:
    """A real SSH server that knows one client key."""
    folder = tmp_path / "sshd"
    folder.mkdir()
    running = LoopbackServer(folder)
    yield running
    running.close()
