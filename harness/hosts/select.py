"""Which host a session runs on, and why."""

from __future__ import annotations

from collections.abc import Callable

from harness.errors import HostError
from harness.hosts.base import Host
from harness.hosts.emulated import EmulatedHost
from harness.hosts.local import LocalHost
from harness.hosts.probe import Lack, Verdict, probe_local
from harness.hosts.ssh import SSHHost
from images.store import host_image

__all__ = ["Lack", "Verdict", "probe_local", "select_host", "why_auto"]


def why_auto(verdict: Verdict) -> tuple[str, str]:
    """The host "auto" takes, and why in one line."""
    if verdict.usable:
        return "local", f"this machine's KVM ({verdict.backend}) runs stock guests"
    return "emulated", f"no usable KVM here: {verdict.cause}"


def select_host(
    name: str,
    progress: Callable[[str], None],
    *,
    probe: Callable[[], Verdict] = probe_local,
) -> Host:
    """The host that `name` asks for, ready to use.

    Args:
        name: "auto", "local", "emulated" or "ssh://user@name[:port]".
        progress: called with one line for what takes long, and for the choice made.

    Raises HostError (or ImageError, building the emulated host) naming cause and hint.
    """
    if name.startswith("ssh://"):
        return SSHHost(name)
    if name == "emulated":
        return _emulated("asked for", progress)
    if name not in {"auto", "local"}:
        raise HostError(
            f"{name!r} is no host",
            hint="choose auto, local, emulated or ssh://user@name",
            stage="host",
        )
    verdict = probe()
    if name == "local":
        if not verdict.usable:
            raise HostError(
                f"this machine's KVM cannot be used: {verdict.cause}",
                hint=f"{verdict.hint}; or use --virt-host=emulated",
                stage="host",
            )
        return LocalHost("asked for")
    choice, why = why_auto(verdict)
    progress(f"host {choice}: {why}")
    return LocalHost(why) if choice == "local" else _emulated(why, progress)


def _emulated(why: str, progress: Callable[[str], None]) -> Host:
    return EmulatedHost(host_image(progress), why=why, progress=progress)
