"""Lines that tell what the session is doing, on the terminal even while output is captured."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest


class Progress:
    """Called with a text, prints it as one line. `stage` also takes the time.

    Attributes:
        stages: stage of the session -> seconds.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self.stages: dict[str, float] = {}

    def __call__(self, text: str) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None or self._config.get_verbosity() < -1:
            return
        with self.uncaptured():
            reporter.ensure_newline()
            reporter.write_line(f"harness: {text}")
            reporter.flush()

    @contextlib.contextmanager
    def uncaptured(self) -> Iterator[None]:
        """Terminal output and /dev/tty belong to us meanwhile."""
        manager = self._config.pluginmanager.get_plugin("capturemanager")
        with manager.global_and_fixture_disabled() if manager else contextlib.nullcontext():
            yield

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage of the session, and tell how long it took (when it was not nothing)."""
        start = time.monotonic()
        try:
            yield
        finally:
            took = time.monotonic() - start
            self.stages[name] = self.stages.get(name, 0.0) + took
            if took >= 0.5:
                self(f"{name} took {took:.1f} s")
