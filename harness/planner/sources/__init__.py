"""Formats of traces and inventories: one reader a file, and the choice between them."""

from __future__ import annotations

from collections.abc import Iterable

from harness.errors import PlanError
from harness.planner.sources.azure import Azure
from harness.planner.sources.base import Reader
from harness.planner.sources.gwa_t12 import GwaT12
from harness.planner.sources.opendc import OpenDC
from harness.planner.sources.planner_schema import PlannerSchema
from harness.planner.sources.prometheus import Prometheus
from harness.planner.sources.rvtools import RVTools
from harness.planner.sources.source_file import SourceFile
from harness.planner.sources.virt_top import VirtTop

# In the order in which they are asked.
READERS: tuple[type[Reader], ...] = (
    GwaT12,
    OpenDC,
    VirtTop,
    RVTools,
    Prometheus,
    Azure,
    PlannerSchema,
)
FORMATS = ("planner", "gwa-t-12", "opendc", "rvtools", "virt-top", "prometheus", "azure")


def assign_readers(
    files: Iterable[SourceFile], form: str | None
) -> list[tuple[Reader, list[SourceFile]]]:
    """Each reader with its files. form: the format of all files; None to recognize it.

    Raises PlanError for a file that no reader recognizes.
    """
    readers = [reader() for reader in READERS]
    if form is not None:
        readers = [reader for reader in readers if reader.name == form]
    groups: dict[str, list[SourceFile]] = {}
    for file in files:
        reader = next((one for one in readers if form or one.recognizes(file)), None)
        if reader is None:
            raise _unknown(file)
        groups.setdefault(reader.name, []).append(file)
    return [(reader, groups[reader.name]) for reader in readers if reader.name in groups]


def _unknown(file: SourceFile) -> PlanError:
    columns = ", ".join(repr(name[:40]) for name in file.columns[:6])
    return file.error(
        f"is of no known format; its columns are {columns}" if columns else "is of no known format",
        f"name one with --format: {', '.join(FORMATS)}",
    )
