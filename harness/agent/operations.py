"""What can be asked of a machine: the control protocol's operations."""

from __future__ import annotations

from functools import partial
from typing import Any, Callable

from harness.kvm.errors import ConfigError, GuestFault, MachineEnd
from harness.vmm.machine import Machine

from .control import Channel
from .init_requests import SnapshotPreparation
from .introspection import IntrospectionServer
from .overhead import OverheadCorrectedCounters


def serve(machine: Machine, channel: Channel, costs: Callable[[], dict[str, int]] = dict) -> None:
    """Answer until the machine is told to stop, which this ends. costs: further statistics."""
    preparation = SnapshotPreparation(machine)
    operations: dict[str, Callable[..., Any]] = {
        "stats": partial(OverheadCorrectedCounters(costs).during, machine.statistics),
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
    """Into the guest's console: the first that it has, or the port of that name."""
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
    """Set how much the balloon should hold; without that, have the guest tell its statistics anew.
    Returns what is known of it."""
    balloon = machine.virtio.balloon
    if balloon is None:
        raise ConfigError("this machine has no balloon", "create it with one")
    if mib is None:
        balloon.refresh()
    elif type(mib) is not int or not 0 <= mib <= machine.config.memory:
        raise ValueError(f"a balloon of {mib!r:.80} MiB in {machine.config.memory} MiB")
    else:
        with machine.buses.lock:
            balloon.set_target(mib)
    return balloon.counters()


def _snapshot(machine: Machine, files: dict[str, int]) -> dict[str, int]:
    """Write a snapshot into the files "memory" and "state"; the machine is paused meanwhile.
    Returns the bytes of memory kept. Raises ConfigError."""
    was_paused = machine.vcpus[0].run_control.paused
    machine.pause()
    try:
        return {"bytes": machine.write_snapshot(files)}
    except (GuestFault, MachineEnd) as end:
        machine.end_machine(end)  # a device that stopped does not go on
        raise
    finally:
        if not was_paused:
            machine.resume()


def _limit_exits(machine: Machine, limit: int) -> bool:
    machine.exit_storm.limit = int(limit)
    return True
