"""The plugin beside other versions of pytest, and beside other well-known plugins."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.results.store import load
from images import store
from tests.plugin.conftest import ROOT, entry_point
from tests.plugin.environments import python_with

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CACHE = store.default_cache().parents[1]  # before a test has another HOME
(OLDEST,) = (
    one.partition(">=")[2] for one in PROJECT["dependencies"] if one.startswith("pytest>=")
)

# runs a test again after a fault of the host's CPU, as suites on an emulated host do
CONFTEST = """
import types
from harness.plugin import rerun

def pytest_runtest_protocol(item, nextitem):
    if item.name.startswith("test_fault"):
        host = types.SimpleNamespace(emulated=True, tainted=False)
        return rerun.protocol(item, nextitem, lambda: host, lambda: None)
"""
MAIN_PATHS = """
import pytest

attempts = []

@pytest.mark.guest(memory=64)
@pytest.mark.boots(short=2)
def test_boot(guest, boot, record_sample):
    assert guest.spec.memory == 64
    record_sample("example.work", 1.0 + boot, "us", "lower")

@pytest.fixture(scope="module")
def prepared(shared_guest):
    return shared_guest

def test_shared_guest_ends(prepared):
    with prepared.expect_end("panic"):
        prepared.machine.tell("panic")

def test_shared_guest_is_replaced(prepared, ssh):
    ssh.run(["true"])

def test_fault(guest, hypervisor):
    attempts.append(hypervisor.name)
    assert attempts.count(hypervisor.name) == 2, "triple-fault: vCPU 0"

@pytest.mark.requires_kvm_cap("PIT2")
def test_skipped(guest): pass

@pytest.mark.parametrize(
    "hypervisor, n", [("processes", 1)], indirect=["hypervisor"], scope="session"
)
def test_own_parameter(guest, n): pass
"""
# one shared guest, which ends, and a host that is replaced between two tests
REPLACEMENT = """
hosts = []

def test_host_asks_for_replacement(guest, virt_host):
    hosts.append(virt_host)
    virt_host.needs_replacement = True

def test_host_is_replaced(guest, virt_host):
    assert virt_host is not hosts[0]
"""
Session = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """`session(python, *arguments)`: pytest in the folder tmp_path, as a process of that Python."""
    shutil.copy(Path(__file__).with_name("processes.py"), tmp_path)
    entry_point(tmp_path, "processes", "processes:ShellHypervisor")
    (tmp_path / "pytest.ini").write_text("[pytest]\nhypervisor = processes processes\n")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
        "XDG_RUNTIME_DIR": str(tmp_path / "run"),
        "CI": "true",
    }

    def run(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        plain = ["-p", "no:cacheprovider", "-p", "no:hypothesispytest", "--virt-no-report"]
        return subprocess.run(
            [python, "-m", "pytest", *plain, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return run


@pytest.mark.slow
@pytest.mark.parametrize("requirement", [f"pytest=={OLDEST}.*", "pytest"], ids=["oldest", "newest"])
def test_main_paths_on_other_pytest(session: Session, tmp_path: Path, requirement: str) -> None:
    upgrade = ["--upgrade"] if requirement == "pytest" else []
    python = python_with(CACHE, [*upgrade, requirement])
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_main.py").write_text(MAIN_PATHS)
    (tmp_path / "test_replacement.py").write_text(REPLACEMENT)
    done = session(python, "--benchmark-json=benchmark.json", "-rs")
    assert done.returncode == 0, done.stdout + done.stderr
    # two boots, two shared guests, one rerun and two replacements on each of two; one parameter
    assert "15 passed, 2 skipped" in done.stdout
    assert "run again after a fault of the emulated CPU" in done.stdout
    assert "example.work" in (tmp_path / "benchmark.json").read_text()
    assert done.stdout.splitlines()[-1].startswith("samples: ")
    wrong = session(python, "-k", "boot", "--hypervisor=bhyve")
    assert wrong.returncode == pytest.ExitCode.USAGE_ERROR


BESIDE_OTHERS = """
import asyncio
import pathlib

def test_host_of_testinfra(host, guest):
    assert host.run("echo out").stdout == "out\\n"
    assert guest.ssh.run(["true"]).status == 0

async def test_asyncio(guest):
    await asyncio.sleep(0)

def test_fails_once(guest, record_sample):
    mark = pathlib.Path("failed-once")
    first = not mark.exists()
    mark.touch()
    record_sample("example.again", 100.0 if first else 1.0, "ms", "lower")
    if first:
        record_sample("example.disturbed", 1.0, "ms", "lower")
        assert False, "first attempt"

def test_sample(guest, boot, record_sample):
    record_sample("example.work", 1.0 + boot, "us", "lower")
"""


@pytest.mark.slow
def test_other_plugins_work_beside_this_one(session: Session, tmp_path: Path) -> None:
    python = python_with(CACHE, PROJECT["optional-dependencies"]["plugins"])
    (tmp_path / "test_beside.py").write_text(BESIDE_OTHERS)
    done = session(
        python,
        *("--profile", "--html=report.html", "--timeout=60", "--reruns=1"),
        *("-p", "randomly", "-p", "no:xdist", "--asyncio-mode=auto", "--hypervisor=processes"),
        "--benchmark-json=benchmark.json",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for line in ("6 passed, 1 rerun", "Profiling (", "--randomly-seed=", "timeout: 60.0s"):
        assert line in done.stdout
    assert (tmp_path / "report.html").stat().st_size
    last = done.stdout.splitlines()[-1]
    assert last.startswith("samples: ")
    facts, frame = load(tmp_path / last.partition(": ")[2])
    assert facts["outcomes"] == {"passed": 6, "rerun": 1}, "as pytest's own summary"
    again = frame[frame["metric"].str.startswith("example.")].set_index("metric")
    assert "example.disturbed" not in again.index, "only the last attempt counts"
    assert again.loc["example.again", "value"] == 1.0
    benchmarks = json.loads((tmp_path / "benchmark.json").read_text())["benchmarks"]
    rounds = {one["group"]: one["stats"]["data"] for one in benchmarks}
    assert rounds["example.again"] == [0.001]
    assert "example.disturbed" not in rounds


def test_plain_conftest_may_have_options_of_common_names(session: Session, tmp_path: Path) -> None:
    options = ("--host", "--results", "--report", "--gate", "--baseline")
    declare = "\n".join(f"    parser.addoption({option!r}, default='x')" for option in options)
    (tmp_path / "conftest.py").write_text(f"def pytest_addoption(parser):\n{declare}\n")
    (tmp_path / "test_plain.py").write_text(
        "def test_it(pytestconfig): assert pytestconfig.getoption('--host') == 'y'\n"
    )
    import sys

    done = session(Path(sys.executable), "--host=y")
    assert done.returncode == 0, done.stdout + done.stderr
