"""What the harness's own tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.hosts.base import Host
from harness.session import session_of


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
