"""What the suites have in common: how many boots each of their tests takes."""

from __future__ import annotations

import pytest

from harness.session import session_of

# by profile; a module's own BOOTS comes first. 6 are the fewest whose interval can cover 95 %
BOOTS = {"short": 3, "full": 6}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with the argument `boot` gets a fresh guest so often: boots are what repeats."""
    if "boot" in metafunc.fixturenames:
        boots = getattr(metafunc.module, "BOOTS", BOOTS)
        metafunc.parametrize("boot", range(boots[session_of(metafunc.config).settings.profile]))
