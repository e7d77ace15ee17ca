"""A run in a few lines, for the end of pytest's output."""

from __future__ import annotations

from pathlib import Path

from reports.key import key_figures
from reports.page import Run
from reports.run import EMULATED


def lines(parquet: Path) -> list[str]:
    """Plain lines: the label when emulated, then one line a key figure.

    Raises ResultError when the run cannot be read.
    """
    run = Run.read(parquet)
    answers = key_figures(run)
    width = max((len(answer.label) for answer in answers), default=0)
    size = max((len(answer.value) for answer in answers), default=0)
    told = [f"{a.label:<{width}}  {a.value:>{size}}  {a.sentence}" for a in answers]
    if not told:
        told = ["This run holds no samples."]
    return [EMULATED, *told] if run.emulated else told
