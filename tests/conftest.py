"""Fixtures of the harness's own tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest

from harness.hosts.emulated import EmulatedHost
from harness.hosts.select import select_host
from harness.plugin.session import session_of
from tests.sshd import LoopbackServer

T = TypeVar("T")


class EmulatedHosts:
    """One emulated host at a time, with resources on it. Both are replaced when QEMU needs it."""

    def __init__(self, progress: Callable[[str], None]) -> None:
        self._progress = progress
        self._host: EmulatedHost | None = None
        self._resources: dict[str, Any] = {}
        self._stack = ExitStack()

    def host(self) -> EmulatedHost:
        if self._host is not None and self._host.needs_replacement:
            self.close()
        if self._host is None:
            host = select_host("emulated", self._progress)
            assert isinstance(host, EmulatedHost)
            self._stack.callback(host.close)
            self._host = host
        return self._host

    emulated = True  # like Host.emulated

    @property
    def tainted(self) -> bool:
        """Whether guests of the host may have failed for a fault of QEMU's."""
        return self._host is not None and self._host.tainted

    def keep(self, name: str, make: Callable[[], T], end: Callable[[T], None]) -> T:
        """Create a resource on the host once, or return the existing one.

        `end` is called before the host is closed, in reverse order of creation.
        """
        if name not in self._resources:
            resource = self._resources[name] = make()
            self._stack.callback(end, resource)
        existing: T = self._resources[name]
        return existing

    def close(self) -> None:
        self._host, self._resources = None, {}
        self._stack.close()


HOSTS = pytest.StashKey[EmulatedHosts]()
# Tests that depend on one of these fixtures get the marker emulated.
BOOTING_FIXTURES = {"boots_emulated_machine", "emulated_hosts"}


def pytest_configure() -> None:
    """A worker of pytest-xdist hides that from the sessions that its tests run."""
    for name in [name for name in os.environ if name.startswith("PYTEST_XDIST")]:
        del os.environ[name]


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark a test that boots an emulated machine by its fixtures, so that no test is missed."""
    if BOOTING_FIXTURES & set(getattr(item, "fixturenames", ())):
        item.add_marker("emulated")


# Where the tests with the marker emulated are, since a scheduler knows no markers: two parts that
# take about the same time.
EMULATED_FILES = (
    tuple(f"tests/real/test_{name}.py" for name in ("clones", "introspection", "bare", "guest")),
    (
        *("tests/real/", "tests/hosts/test_emulated.py", "tests/images/test_real.py"),
        "tests/images/test_load_rate.py",  # not beside an emulated host
    ),
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """The scheduler of `pytest -n`, unless --dist names another one.

    Two workers run the tests on emulated hosts; more such hosts would slow each other. The
    others share the remaining files."""
    if config.option.dist != "load":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            for part, files in enumerate(EMULATED_FILES):
                if nodeid.startswith(files):
                    return f"emulated {part}"
            return nodeid.partition("::")[0]

    config.option.loadscopereorder = False  # pytest_collection_modifyitems() orders them
    return Scheduling(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In workers of pytest-xdist, the parts that take longest come first."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("emulated") is None)


@pytest.fixture(scope="session")
def boots_emulated_machine() -> None:
    """For tests that boot an emulated machine by other means than the fixture emulated_host."""


@pytest.fixture(scope="session")
def emulated_hosts(pytestconfig: pytest.Config) -> Iterator[EmulatedHosts]:
    """The source of emulated_host, for fixtures with resources on that host."""
    hosts = EmulatedHosts(session_of(pytestconfig).progress)
    pytestconfig.stash[HOSTS] = hosts
    yield hosts
    hosts.close()


@pytest.fixture(scope="module")
def emulated_host(emulated_hosts: EmulatedHosts) -> EmulatedHost:
    """The emulated host, shared by modules."""
    return emulated_hosts.host()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LoopbackServer]:
    """An SSH server that accepts one client key."""
    folder = tmp_path / "sshd"
    folder.mkdir()
    running = LoopbackServer(folder)
    yield running
    running.close()
