"""Which hypervisors there are: entry points of the group `harness.hypervisors`."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import cast

from harness.errors import HostError
from harness.hypervisors.base import HypervisorFactory

GROUP = "harness.hypervisors"
# Names that the design knows; some come in later versions.
PLANNED = ("native", "kvm", "qemu", "lguest")
# What `auto` tries, in this order.
AUTO = ("kvm",)


def _found() -> dict[str, EntryPoint]:
    points: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        points.setdefault(point.name, point)  # as imports do: the first on sys.path counts
    return points


def names() -> list[str]:
    """Hypervisors that can be loaded here; imports them all, so only for error messages."""
    usable = []
    for name, point in sorted(_found().items()):
        try:
            point.load()
        except Exception:  # noqa: S112 - any failure at all means that it cannot be had
            continue
        usable.append(name)
    return usable


def known(name: str) -> bool:
    """Whether there is, or will be, a hypervisor of that name. Imports nothing."""
    return name in PLANNED or name in _found()


def missing(name: str, why: str = "") -> HostError:
    """The error for a hypervisor that cannot be had; it lists what there is."""
    if why:
        cause = f"hypervisor {name!r} cannot be loaded: {why}"
    elif name in PLANNED:
        cause = f"hypervisor {name!r} is not implemented in this version"
    else:
        cause = f"there is no hypervisor {name!r}"
    return HostError(
        cause,
        hint=f"take one of: {', '.join(['auto', *names()])}; more come as plugins, by entry points "
        f"of the group {GROUP}",
        stage="host",
    )


def load(name: str) -> HypervisorFactory:
    """The hypervisor of that name. Raises HostError that lists what there is."""
    point = _found().get(name)
    if point is None:
        raise missing(name)
    try:
        return cast(HypervisorFactory, point.load())
    except ModuleNotFoundError as error:
        # Ours, to come in a later version; any other import that fails is news.
        raise missing(name, "" if error.name == point.module else str(error)) from error
    except Exception as error:
        raise missing(name, f"{type(error).__name__}: {error}") from error
