"""Runs the plugin in a temporary project that has a third-party hypervisor installed."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

# pytester removes the modules that its inner run imports; numpy cannot be imported twice.
for module in (
    "harness.plugin.kept_guests",
    "harness.plugin.recorder",
    "reports.run",
    "reports.terminal",
):
    importlib.import_module(module)

ROOT = Path(__file__).parents[2]
Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run(test_source, *arguments)`: pytest on one test module, with the hypervisor "processes".

    hypervisor: another name, or "" for none. apart: in a separate process (slower).
    """
    shutil.copy(Path(__file__).with_name("processes.py"), pytester.path)
    entry_point(pytester.path, "processes", "processes:ShellHypervisor")
    monkeypatch.syspath_prepend(pytester.path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(pytester.path / "run"))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.setenv("CI", "true")  # no user sits at a terminal

    def go(
        source: str, *arguments: str, hypervisor: str = "processes", apart: bool = False
    ) -> pytest.RunResult:
        pytester.makepyfile(source)
        named = [f"--hypervisor={hypervisor}"] if hypervisor else []
        # Hypothesis takes a second at the end of every inner run.
        plain = ["-p", "no:cacheprovider", "-p", "no:hypothesispytest", *named, *arguments]
        if apart:
            monkeypatch.setenv("PYTHONPATH", f"{pytester.path}{os.pathsep}{ROOT}")
            return pytester.runpytest_subprocess(*plain)
        # The modules of this process are already imported, so pytest cannot rewrite their asserts.
        return pytester.runpytest_inprocess(
            "-W", "ignore::pytest.PytestAssertRewriteWarning", *plain
        )

    return go


def entry_point(folder: Path, name: str, target: str) -> None:
    """Write the metadata of an installed distribution with that entry point."""
    info = folder / f"example_{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: example-{name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[harness.hypervisors]\n{name} = {target}\n")
