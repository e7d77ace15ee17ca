"""What the suites have in common: how many boots each of their tests takes, and a second try where
the host's CPU is software."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.plugin import rerun
from harness.plugin.fixtures import release_all
from harness.plugin.session import Session, session_of
from suites import bare

# by profile; a module's own BOOTS comes first. 6 are the fewest whose interval can cover 95 %, and
# 8 the fewest by which one figure among some hundred can be shown to differ (2 / 12,870)
BOOTS = {"short": 3, "full": 8}


@pytest.fixture(scope="session")
def bare_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled program for suites.bare.run()."""
    return bare.build(tmp_path_factory.mktemp("bare"))


@pytest.fixture(autouse=True)
def guests_end_with_their_test(harness_session: Session) -> Iterator[None]:
    """What a failing test leaves on would be in the way of others': QEMU locks a disk's file."""
    before = list(harness_session.guests)
    yield
    known = [*before, *harness_session.kept]
    release_all(harness_session, [one for one in harness_session.guests if one not in known])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with the argument `boot` gets a fresh guest so often: boots are what repeats."""
    if "boot" in metafunc.fixturenames:
        boots = getattr(metafunc.module, "BOOTS", BOOTS)
        metafunc.parametrize("boot", range(boots[session_of(metafunc.config).settings.profile]))


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Once more, where a guest of the emulated host fell to a fault of its CPU's.

    pytest asks for every test of the session, also those of other folders.
    """
    session = session_of(item.config)
    if Path(__file__).parent not in item.path.parents or (
        session.host is not None and not session.host.emulated
    ):
        return None

    def blame(said: Sequence[str]) -> bool:
        host = session.host
        return bool(host and host.emulated and (rerun.signs(said) or host.tainted))

    def between() -> None:
        """A host that is worn is replaced before the next test, once nobody is left on it."""
        for guest in session.used:
            with contextlib.suppress(HarnessError):
                guest.stop()

    return rerun.protocol(item, nextitem, blame, between)
