"""The compiled tools of the workload image."""

from __future__ import annotations

from pathlib import Path

import pytest

from images.build import compile_tool
from images.recipe import tool_sources


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("load")
    folder.parent.chmod(0o755)
    for name in ("hv-load", "hv-job"):
        (folder / name).write_bytes(
            compile_tool(tool_sources("workload")[name], folder / "scratch")
        )
        (folder / name).chmod(0o755)
    return folder
