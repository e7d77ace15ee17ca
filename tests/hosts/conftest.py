"""Fixtures of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sshd import LoopbackServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LoopbackServer]:
    """A real SSH server that knows one client key."""
    folder = tmp_path / "sshd"
    folder.mkdir()
    running = LoopbackServer(folder)
    yield running
    running.close()
