"""Reaching into a machine by its control protocol: registers, memory, exits, devices, faults.

Callbacks go the other way: {"event": "exit" or "access", "call": n, ...} asks the controller, and
the operation "reply" answers. Meanwhile the vCPU waits, without the buses' lock and with its
registers in reach: an answer may take its time and may ask for anything itself. There is no
timeout (somebody may sit at a debugger), and none is needed: the end of the machine or of its
control channel is the end of this process.
"""

from __future__ import annotations

import base64
import contextlib
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any, Callable

from harness.kvm import ioctls
from harness.kvm.errors import MachineEnd
from harness.kvm.structs import CONTROL_NAMES, REGISTER_NAMES, SEGMENT_NAMES, TABLE_NAMES, Segment
from harness.vmm import faults
from harness.vmm.devices import callback_device
from harness.vmm.devices.bus import Device
from harness.vmm.int_range import check_int_range
from harness.vmm.machine import Machine
from harness.vmm.vcpu import VcpuThread

CHUNK = 256 << 10  # bytes of memory in one message
_STEP_WAIT = 0.1  # seconds
_REASONS = {name: reason for reason, name in ioctls.EXIT_NAMES.items()}

# at an exit, on the vCPU's thread; a number answers it in the device's place
Action = Callable[[VcpuThread, "dict[str, Any]"], "int | None"]


class Hook:
    """What is done at exits of one reason: at each, or (nth > 0) at the nth only."""

    def __init__(self, action: Action, reason: Any, at: Any = None, nth: Any = 0) -> None:
        """at: the port or address; None for any."""
        if reason not in _REASONS:
            raise ValueError(f"no exit reason {reason!r:.80}: one of {', '.join(_REASONS)}")
        self.action = action
        self._reason = reason
        self._at = None if at is None else check_int_range("port or address", at, 1 << 64)
        self._nth = check_int_range("nth", nth, 1 << 32)
        self._seen = 0

    def hits(self, reason: str, at: int | None) -> bool:
        if reason != self._reason or self._at not in (None, at):
            return False
        self._seen += 1
        return self._nth in (0, self._seen)


class Hooked:
    """A bus behind the hooks, as one vCPU sees it."""

    def __init__(self, bus: Device, exit: Callable[..., int | None]) -> None:
        self._bus = bus
        self._exit = exit

    def read(self, at: int, size: int) -> int:
        value = self._exit(at=at, size=size, write=False)
        return self._bus.read(at, size) if value is None else value & ((1 << 8 * size) - 1)

    def write(self, at: int, size: int, value: int) -> None:
        if self._exit(at=at, size=size, write=True, data=value) is None:
            self._bus.write(at, size, value)


class IntrospectionServer:
    """The operations, and the callbacks that wait for their replies."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._vcpus = machine.vcpus
        self._lock = machine.buses.lock
        self._answered = threading.Condition(self._lock)
        self._calls = 0
        self._replies: dict[int, tuple[int | None, str] | None] = {}  # None: not yet
        self._hooks: dict[int, Hook] = {}
        self._interrupts: list[Callable[[int], None]] = []  # by device
        self._bits = b""  # of the slot that was asked for last

    def operations(self) -> dict[str, Callable[..., Any]]:
        return {
            "registers": self._registers,
            "set_registers": self._set_registers,
            "step": self._step,
            "read_memory": self._read_memory,
            "write_memory": self._write_memory,
            "log_dirty_pages": self._log_writes,
            "dirty_log_slots": self._logged,
            "dirty_bitmap": self._written,
            "add_exit_hook": self._hook,
            "remove_exit_hook": self._unhook,
            "reply": self._reply,
            "add_port_device": self._add_port_device,
            "add_pci_device": self._add_pci_device,
            "interrupt": self._interrupt,
            "inject_fault": self._inject_fault,
            "fail_request": self._fail_request,
        }

    # registers and memory

    def _vcpu(self, index: Any) -> VcpuThread:
        return self._vcpus[check_int_range("vCPU", index, len(self._vcpus))]

    @contextlib.contextmanager
    def _held(self, index: Any) -> Iterator[VcpuThread]:
        """A vCPU that is not in the guest for as long as the block lasts."""
        vcpu = self._vcpu(index)
        was_paused = vcpu.run_control.paused
        try:
            vcpu.run_control.pause()
            yield vcpu
        finally:
            if not was_paused:
                vcpu.run_control.resume()

    def _change(self, index: Any, action: Callable[[VcpuThread], None]) -> None:
        """Change a vCPU's state; of one that asks, after the access that it asks for."""
        with self._held(index) as vcpu:
            if vcpu.run_control.in_callback:
                vcpu.run_control.defer(partial(_in_callback, action, vcpu))
            else:
                action(vcpu)

    def _registers(self, vcpu: Any) -> dict[str, Any]:
        with self._held(vcpu) as held:
            general, special = held.registers(), held.special()
        named: dict[str, Any] = {name: special[name][0] for name in CONTROL_NAMES}
        for names, fields in ((SEGMENT_NAMES, Segment._fields), (TABLE_NAMES, ("base", "limit"))):
            named.update({name: dict(zip(fields, special[name])) for name in names})
        return {"regs": general, "sregs": named}

    def _set_registers(self, vcpu: Any, values: dict[str, Any]) -> bool:
        for name, value in values.items():
            if name not in REGISTER_NAMES + CONTROL_NAMES:
                raise ValueError(f"no register {name!r:.80} to be set")
            check_int_range(name, value, 1 << 64)
        general = {name: value for name, value in values.items() if name in REGISTER_NAMES}
        special = {name: (value,) for name, value in values.items() if name in CONTROL_NAMES}

        def change(held: VcpuThread) -> None:
            if special:
                held.set_special(special)
            if general:
                held.set_registers({**held.registers(), **general})

        self._change(vcpu, change)
        return True

    def _step(self, vcpu: Any, cancel: Any = False) -> bool:
        """Whether the instruction is done; if not, ask again, or give up and it is paused."""
        chosen = self._vcpu(vcpu)
        if cancel:
            chosen.stepper.cancel()
            return False
        if not (chosen.run_control.paused or chosen.stepper.active):
            raise ValueError(f"vCPU {vcpu} runs: pause it first")
        return chosen.stepper.step(_STEP_WAIT)

    def _read_memory(self, gpa: int, size: Any) -> str:
        view = self._machine.memory.view(gpa, check_int_range("size", size, CHUNK + 1))
        return base64.b64encode(view).decode()

    def _write_memory(self, gpa: int, data: str) -> bool:
        self._machine.memory.write(gpa, base64.b64decode(data, validate=True))
        return True

    def _log_writes(self, on: Any) -> bool:
        with self._lock:
            self._machine.vm.set_dirty_logging(bool(on))
        return True

    def _logged(self) -> list[tuple[int, int]]:
        with self._lock:
            return self._machine.vm.dirty_logged_slots()

    def _written(self, slot: Any, at: Any = 0) -> tuple[str, bool]:
        """As of Vm.read_dirty_log, from byte `at` on, in base64: a piece, and whether there is more
        of it. At 0 KVM is asked anew."""
        with self._lock:
            if slot not in dict(self._machine.vm.dirty_logged_slots()):
                raise ValueError("writes are not logged: log_dirty_pages first")
            if at == 0:
                self._bits = self._machine.vm.read_dirty_log(slot)
            start = check_int_range("at", at, len(self._bits) + 1)
            piece = self._bits[start : start + CHUNK]
        return base64.b64encode(piece).decode(), start + CHUNK < len(self._bits)

    # callbacks

    def ask(self, event: str, **fields: Any) -> int | None:
        """Ask and wait for the reply, on a vCPU's thread. Raises MachineEnd when it is an error."""
        thread = threading.current_thread()
        vcpu = next(one for one in self._vcpus if one.run_control.thread is thread)
        with self._answered:
            self._calls += 1
            call = self._calls
            self._replies[call] = None
            self._machine.event(event, call=call, vcpu=vcpu.index, **fields)
            with vcpu.run_control.callback_wait():
                self._answered.wait_for(lambda: self._replies[call])
            value, error = self._replies.pop(call) or (None, "")
        if error:
            raise MachineEnd("callback-error", error)
        return value

    def _reply(self, call: Any, value: Any = None, error: Any = "") -> bool:
        if value is not None and type(value) is not int:
            raise ValueError(f"a reply is a number or nothing, not {value!r:.80}")
        with self._answered:
            if self._replies.get(call, ()) is not None:
                raise ValueError(f"no call {call!r:.80} waits for a reply")
            self._replies[call] = (value, str(error)[:4000])
            self._answered.notify_all()
        return True

    # exits

    def _hook(self, reason: Any, at: Any = None, nth: Any = 0) -> int:
        return self._add_hook(Hook(lambda vcpu, exit: self.ask("exit", **exit), reason, at, nth))

    def _unhook(self, hook: Any) -> bool:
        with self._lock:
            self._hooks = {number: one for number, one in self._hooks.items() if number != hook}
        return True

    def _add_hook(self, hook: Hook) -> int:
        buses = self._machine.buses
        with self._lock:
            for vcpu in self._vcpus:
                # from now on: a machine that nobody watches has nothing in its way
                vcpu.pio = Hooked(buses.pio, partial(self._exit, vcpu, "io"))
                vcpu.mmio = Hooked(buses.mmio, partial(self._exit, vcpu, "mmio"))
                vcpu.on_final_exit = partial(self._ends, vcpu)
            self._calls += 1
            self._hooks = {**self._hooks, self._calls: hook}
            return self._calls

    def _ends(self, vcpu: VcpuThread, reason: int) -> None:
        self._exit(vcpu, ioctls.EXIT_NAMES.get(reason, "unknown"))

    def _exit(
        self, vcpu: VcpuThread, reason: str, at: int | None = None, **fields: Any
    ) -> int | None:
        """Run the hooks of one access; the last answer counts."""
        answer = None
        for number, hook in self._hooks.items():
            if hook.hits(reason, at):
                value = hook.action(vcpu, {"hook": number, "reason": reason, "at": at, **fields})
                answer = answer if value is None else value
        return answer

    # devices

    def _add_port_device(self, **made_of: Any) -> int:
        ask = partial(self.ask, "access", device=len(self._interrupts))
        with self._lock:
            self._interrupts.append(
                callback_device.add_port_device(
                    self._machine.vm, self._machine.buses, ask, **made_of
                )
            )
            return len(self._interrupts) - 1

    def _add_pci_device(self, **made_of: Any) -> int:
        if self._machine.guest_started:
            raise ValueError("the guest has begun: a PCI device must be there before")
        ask = partial(self.ask, "access", device=len(self._interrupts))
        with self._lock:
            self._interrupts.append(
                callback_device.add_pci_device(
                    self._machine.vm, self._machine.chipset.bridge, ask, **made_of
                )
            )
            return len(self._interrupts) - 1

    def _interrupt(self, device: Any, vector: Any = 0) -> bool:
        self._interrupts[check_int_range("device", device, len(self._interrupts))](vector)
        return True

    # faults

    def _inject_fault(
        self, kind: Any, vcpu: Any = 0, exit: Any = None, vector: Any = 0, error_code: Any = None
    ) -> bool:
        """exit: what Hook takes, of the exit to wait for; None: now, on `vcpu`."""
        fault = faults.vcpu_fault(kind, vector, error_code)
        if exit is None:
            self._change(vcpu, fault)
        else:
            self._add_hook(
                Hook(
                    lambda vcpu, exit: vcpu.run_control.defer(partial(fault, vcpu)),
                    **{"nth": 1, **exit},
                )
            )
        return True

    def _fail_request(self, kind: Any, device: Any, nth: Any = 1) -> bool:
        """nth: of the device's requests from now on."""
        faults.fail_request(self._machine.virtio.backends, kind, device, nth)
        return True


def _in_callback(action: Callable[[VcpuThread], None], vcpu: VcpuThread) -> None:
    """What a callback asked for, now that nobody waits for an answer any more."""
    try:
        action(vcpu)
    except OSError as error:
        raise MachineEnd("callback-error", f"KVM refused what a callback set: {error}") from error
