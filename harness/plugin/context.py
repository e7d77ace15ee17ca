"""What all parts of one pytest process share: settings, names, directories, progress."""

from __future__ import annotations

import contextlib
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from harness import scratch
from harness.plugin.options import settings
from harness.plugin.progress import Progress
from harness.run_id import new_run_id


class RunContext:
    """The settings, names and directories of one pytest process. It starts nothing."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.settings = settings(config)
        self.progress = Progress(config)
        folders = (self.settings.results, self.settings.artifacts)
        self._existing = {folder for folder in folders if folder is not None and folder.exists()}

    @property
    def worker(self) -> dict[str, Any] | None:
        """pytest-xdist's `workerinput`; None outside of a worker."""
        return getattr(self.config, "workerinput", None)

    @property
    def worker_count(self) -> int:
        """How many workers run tests; 1 without pytest-xdist."""
        return int(self.worker["workercount"]) if self.worker else 1

    @cached_property
    def run(self) -> str:
        """The run's id. All workers have the same."""
        if self.worker:
            return str(self.worker["harness_run"])
        return new_run_id()

    @cached_property
    def prefix(self) -> str:
        """The start of every guest's name. It is short and differs between sessions and workers."""
        worker = str(self.worker["workerid"]) if self.worker else "main"
        return f"{self.run.rpartition('-')[2]}-{worker}"

    @property
    def run_directory(self) -> Path:
        """Holds the report and the consoles of failed tests."""
        return self.settings.results / self.run

    @property
    def artifacts(self) -> Path:
        """Holds the consoles that are kept."""
        return self.settings.artifacts or self.run_directory / "consoles"

    @cached_property
    def scratch(self) -> Path:
        """Holds temporary files until the session ends."""
        return scratch.make()

    def remove_scratch(self) -> None:
        """Remove the temporary files, if there are any."""
        if "scratch" in self.__dict__:
            shutil.rmtree(self.scratch)

    def remove_empty_directories(self) -> None:
        """Remove the directories that this run created and that hold nothing.

        Workers leave that to the controller.
        """
        if self.worker is None and "run" in self.__dict__:
            created = {self.artifacts, self.run_directory, self.settings.results} - self._existing
            for folder in sorted(created, key=lambda path: len(path.parts), reverse=True):
                with contextlib.suppress(OSError):  # it holds a file, or it does not exist
                    folder.rmdir()
