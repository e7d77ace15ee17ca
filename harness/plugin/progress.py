"""Lines on the session's progress, printed even while pytest captures output."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest


class Progress:
    """Prints a text as one line when it is called. `stage` measures the time of a stage.

    Attributes:
        stages: seconds by stage of the session.
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
            writer = self._config.get_terminal_writer()
            if writer.width_of_current_line:  # with -q, ensure_newline() does not see the dots
                writer.line()
            reporter.write_line(f"harness: {text}")
            reporter.flush()

    @contextlib.contextmanager
    def uncaptured(self) -> Iterator[None]:
        """Suspend pytest's capture, so that terminal and /dev/tty are usable."""
        manager = self._config.pluginmanager.get_plugin("capturemanager")
        with manager.global_and_fixture_disabled() if manager else contextlib.nullcontext():
            yield

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a stage of the session. Prints the duration if it is at least half a second."""
        start = time.monotonic()
        try:
            yield
        finally:
            took = time.monotonic() - start
            self.stages[name] = self.stages.get(name, 0.0) + took
            if took >= 0.5:
                self(f"{name} took {took:.1f} s")
