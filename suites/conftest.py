"""What the suites have in common: how many boots each of their tests takes, and a second try where
the host's CPU is software."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import pytest

from harness import again
from harness.errors import HarnessError
from harness.session import session_of

# by profile; a module's own BOOTS comes first. 6 are the fewest whose interval can cover 95 %
BOOTS = {"short": 3, "full": 6}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with the argument `boot` gets a fresh guest so often: boots are what repeats."""
    if "boot" in metafunc.fixturenames:
        boots = getattr(metafunc.module, "BOOTS", BOOTS)
        metafunc.parametrize("boot", range(boots[session_of(metafunc.config).settings.profile]))


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    """Once more, where a guest of the emulated host fell to a fault of its CPU's."""
    session = session_of(item.config)

    def blame(said: Sequence[str]) -> bool:
        host = session.host
        return bool(
            host and host.emulated and (again.signs(said) or getattr(host, "unsound", False))
        )

    def between() -> None:
        """A host that is worn is replaced before the next test, once nobody is left on it."""
        for guest in session.used:
            with contextlib.suppress(HarnessError):
                guest.stop()

    return again.protocol(item, nextitem, blame, between)
