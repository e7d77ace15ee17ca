"""The choice of a session's host."""

from __future__ import annotations

from collections.abc import Callable

from harness.errors import HostError
from harness.hosts.base import Host
from harness.hosts.emulated import EmulatedHost
from harness.hosts.local import LocalHost
from harness.hosts.probe import Verdict, probe_local
from harness.hosts.ssh import SSHHost
from images.store import host_image


def choose_auto(verdict: Verdict) -> tuple[str, str]:
    """Choose the host for "auto". Returns its name and the reason in one line."""
    if verdict.usable:
        return "local", f"this machine's KVM ({verdict.backend}) runs stock guests"
    return "emulated", f"this machine has no usable KVM: {verdict.cause}"


def select_host(
    name: str,
    progress: Callable[[str], None],
    *,
    probe: Callable[[], Verdict] = probe_local,
) -> Host:
    """Open a host by name.

    Args:
        name: "auto", "local", "emulated" or "ssh://user@name[:port]".
        progress: called with one line for each slow step, and for the choice of "auto".
        probe: judges this machine's KVM.

    Raises HostError, or ImageError when the emulated host's image cannot be built.
    """
    if name.startswith("ssh://"):
        return SSHHost(name)
    if name == "emulated":
        return _emulated("requested", progress)
    if name not in {"auto", "local"}:
        raise HostError(
            f"{name!r} is not a host",
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
        return LocalHost("requested")
    choice, reason = choose_auto(verdict)
    progress(f"host {choice}: {reason}")
    return LocalHost(reason) if choice == "local" else _emulated(reason, progress)


def _emulated(reason: str, progress: Callable[[str], None]) -> Host:
    return EmulatedHost(host_image(progress), reason=reason, progress=progress)
