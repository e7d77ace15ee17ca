"""What the suites share: the bare program, the end of guests, a rerun after a host's fault."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.plugin import rerun
from harness.plugin.session import Session, session_of
from suites import bare


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("harness").addoption(
        "--virt-tile",
        metavar="FILE",
        type=Path,
        help="consolidate this mix of guests instead of the standard one",
    )


@pytest.fixture(scope="session")
def bare_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled program for suites.bare.run()."""
    return bare.build(tmp_path_factory.mktemp("bare"))


@pytest.fixture(autouse=True)
def end_guests_of_test(harness_session: Session) -> Iterator[None]:
    """End the guests that a failing test leaves running.

    They would disturb the next tests: QEMU locks the file of a disk.
    """
    guests = harness_session.guests
    before = list(guests.running)
    yield
    known = [*before, *guests.kept]
    guests.release_all([one for one in guests.running if one not in known])


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a test of the suites again after a fault of an emulated host's CPU.

    pytest calls this for all tests of the session, also for those of other folders.
    """
    session = session_of(item.config)
    host = session.hosts.host
    if Path(__file__).parent not in item.path.parents or (host is not None and not host.emulated):
        return None

    def stop_guests() -> None:
        """The plugin replaces a host that needs it once no guest runs on it."""
        for guest in session.guests.used:
            with contextlib.suppress(HarnessError):
                guest.stop()

    return rerun.protocol(item, nextitem, lambda: session.hosts.host, stop_guests)
