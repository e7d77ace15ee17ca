"""Sessions of projects that do not use the plugin: it loads little, and removes nothing."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import Run

HEAVY = ("duckdb", "numpy", "pandas", "paramiko", "pyarrow", "rich", "scipy")
CONFTEST = f"""
    import pathlib, sys

    def pytest_unconfigure(config):
        name = getattr(config, "workerinput", {{"workerid": "main"}})["workerid"]
        loaded = [module for module in {HEAVY} if module in sys.modules]
        pathlib.Path(f"modules-{{name}}").write_text(" ".join(loaded))
"""


@pytest.mark.parametrize("workers", [0, 1])
def test_plain_session_loads_no_heavy_module_and_removes_no_folder(
    run: Run, pytester: pytest.Pytester, workers: int
) -> None:
    if workers:
        pytest.importorskip("xdist", reason="pytest-xdist is not installed")
    pytester.makeconftest(CONFTEST)
    pytester.mkdir("results")
    arguments = [f"-n{workers}"] if workers else []
    result = run("def test_it(): pass", *arguments, hypervisor="", apart=True)
    result.assert_outcomes(passed=1)
    loaded = {path.name: path.read_text() for path in pytester.path.glob("modules-*")}
    assert loaded == {"modules-main": "", **({"modules-gw0": ""} if workers else {})}
    assert (pytester.path / "results").is_dir()


def test_session_with_guests_removes_only_its_own_empty_folders(
    run: Run, pytester: pytest.Pytester
) -> None:
    run("def test_it(guest): pass").assert_outcomes(passed=1)
    assert not (pytester.path / "results").exists()
    pytester.mkdir("results")
    run("def test_it(guest): pass").assert_outcomes(passed=1)
    assert list((pytester.path / "results").iterdir()) == []
