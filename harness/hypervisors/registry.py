"""Finds hypervisors by the entry points of the group `harness.hypervisors`."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import cast

from harness.errors import HostError
from harness.hypervisors.base import HypervisorFactory

GROUP = "harness.hypervisors"
AUTO = ("kvm",)  # the order in which `auto` tries them


def _points() -> dict[str, EntryPoint]:
    points: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        points.setdefault(point.name, point)  # as for imports, the first on sys.path counts
    return points


def names() -> list[str]:
    """The hypervisors that can be loaded here. It imports all of them: for error messages."""
    usable = []
    for name, point in sorted(_points().items()):
        try:
            point.load()
        except Exception:  # noqa: S112 - whatever fails, the hypervisor is not usable
            continue
        usable.append(name)
    return usable


def known(name: str) -> bool:
    """Whether an entry point has that name. It imports nothing."""
    return name in _points()


def missing(name: str, reason: str = "") -> HostError:
    """The error for a hypervisor that cannot be loaded. reason: why, if it exists."""
    if reason:
        return HostError(
            f"hypervisor {name!r} cannot be loaded: {reason}",
            hint=f"correct the module or the class that the entry point {name!r} names",
            stage="host",
        )
    return HostError(
        f"there is no hypervisor {name!r}",
        hint=f"use one of: {', '.join(['auto', *names()])}; or install a plugin with an entry "
        f"point of the group {GROUP}",
        stage="host",
    )


def load(name: str) -> HypervisorFactory:
    """The hypervisor of that name. Raises HostError that lists the usable ones."""
    point = _points().get(name)
    if point is None:
        raise missing(name)
    try:
        return cast(HypervisorFactory, point.load())
    except Exception as error:
        raise missing(name, f"{type(error).__name__}: {error}") from error
