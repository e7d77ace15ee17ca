"""The compiled tools of the workload image."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.images.loopback import compile_load_tools


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_load_tools(tmp_path_factory.mktemp("load"))
