"""The control protocol's operations on a machine of the built-in VMM."""

from __future__ import annotations

from functools import partial
from typing import Any, Callable

from harness.kvm.errors import ConfigError, GuestFault, MachineEnd
from harness.vmm.machine import Machine

from .control import Channel
from .init_requests import SnapshotPreparation
from .introspection import IntrospectionServer
from .overhead import OverheadCorrectedCounters


def serve(
    machine: Machine, channel: Channel, read_cgroup: Callable[[], dict[str, int]] = dict
) -> None:
    """Answer requests until "stop" or the end of the channel, then end the machine.

    read_cgroup: returns counters to add to the machine's statistics.
    """
    preparation = SnapshotPreparation(machine)
    operations: dict[str, Callable[..., Any]] = {
        "stats": partial(OverheadCorrectedCounters(read_cgroup).read, machine.statistics),
        "stop": lambda: True,
        "type": partial(_type, machine),
        "balloon": partial(_balloon, machine),
        "pause": machine.pause,
        "resume": machine.resume,
        "prepare_snapshot": preparation.start,
        "snapshot_ready": preparation.finished,
        "snapshot": partial(_snapshot, machine),
        "limit_exits": partial(_limit_exits, machine),
        **IntrospectionServer(machine).operations(),
    }
    try:
        stopped = channel.serve(operations)
    except (OSError, ValueError) as error:
        machine.end_machine(MachineEnd("vmm-error", f"control: {error}"))
    else:
        machine.end_machine(MachineEnd("stopped", "" if stopped else "the control channel closed"))


def _type(machine: Machine, text: str, port: str = "") -> bool:
    """Write to a console: the named port, or the first one."""
    hvc, serial = machine.virtio.hvc, machine.chipset.serial
    if hvc and (port == "hvc0" or not serial):
        hvc.receive(text.encode())
    elif serial and port in ("", "ttyS0"):
        with machine.buses.lock:
            serial.receive(text.encode())
    else:
        raise ValueError(f"there is no console port {port!r:.80}")
    return True


def _balloon(machine: Machine, mib: int | None = None) -> dict[str, int]:
    """Set the balloon's target size, or request new statistics from the guest without `mib`.

    Returns the balloon's counters.
    """
    balloon = machine.virtio.balloon
    if balloon is None:
        raise ConfigError("this machine has no balloon", "create it with a balloon")
    if mib is None:
        balloon.refresh()
    elif type(mib) is not int or not 0 <= mib <= machine.config.memory:
        raise ValueError(f"a balloon of {mib!r:.80} MiB in {machine.config.memory} MiB")
    else:
        with machine.buses.lock:
            balloon.set_target(mib)
    return balloon.counters()


def _snapshot(machine: Machine, files: dict[str, int]) -> dict[str, int]:
    """Pause the machine and write a snapshot into the files "memory" and "state".

    Returns the bytes of memory that are not zero. Raises ConfigError.
    """
    was_paused = machine.vcpus[0].run_control.paused
    machine.pause()
    try:
        return {"bytes": machine.write_snapshot(files)}
    except (GuestFault, MachineEnd) as end:
        machine.end_machine(end)  # a device that has stopped cannot continue
        raise
    finally:
        if not was_paused:
            machine.resume()


def _limit_exits(machine: Machine, limit: int) -> bool:
    machine.exit_storm.limit = int(limit)
    return True
