"""Introspection of a machine: registers, memory, dirty pages, exits, devices and faults.

These are operations of the control protocol (see `supervisor`), with their arguments and results.

Registers and memory:
    registers        vcpu. result: {"regs": {name: value}, "sregs": {name: value or fields}}.
    set_registers    vcpu, values: name of a register or control register to value.
    step             vcpu, cancel=false. Execute one instruction of a paused vCPU. result: whether
                     it is executed; if not, repeat the request, or cancel the step.
    read_memory      gpa, size (at most CHUNK). result: base64.
    write_memory     gpa, data: base64.

Dirty pages:
    log_dirty_pages  on. KVM logs the pages that vCPUs write (KVM_MEM_LOG_DIRTY_PAGES).
    dirty_log_slots  result: [slot, gpa] of each memory slot with a dirty log.
    dirty_bitmap     slot, at=0. A chunk of a slot's bitmap from byte `at` on; at 0 KVM's log is
                     read and cleared. result: [base64, whether more follows].

Exits:
    add_exit_hook    reason, at=null, nth=0. Call back at exits of one reason ("io", "mmio", ...);
                     at: only at this port or address; nth: only at the nth exit. result: the hook.
    remove_exit_hook hook.
    reply            call, value=null, error="". Answer a callback.

Devices and faults:
    add_port_device, add_pci_device
                     The keywords of vmm.devices.callback_device. result: the device.
    interrupt        device, vector=0. Raise the interrupt of such a device.
    inject_fault     kind, vcpu=0, exit=null, vector=0, error_code=null. A fault on a vCPU, now, or
                     with `exit`, the fields of add_exit_hook, at that exit. See vmm.faults.
    fail_request     kind, device, nth=1. A fault of a virtio device's nth request from now on.

Callbacks are events: {"event": "exit" or "access", "call": N, "vcpu": index, ...}. "exit" has the
fields "hook", "reason", "at" and those of the access; "access" has "device" and those of the
access. The vCPU waits for the reply. A value replaces the access; without a value the VMM handles
it; an error ends the machine. While a vCPU waits, it does not hold the buses' lock, and all
operations work. There is no timeout, because a person may be using a debugger. If the controller
ends, so does this process.
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
_STEP_TIMEOUT = 0.1  # seconds
_REASONS = {name: reason for reason, name in ioctls.EXIT_NAMES.items()}

# runs at an exit on the vCPU's thread; a number replaces the device's answer
Action = Callable[[VcpuThread, "dict[str, Any]"], "int | None"]


class ExitHook:
    """An action at exits of one reason: at each one, or with nth > 0 at the nth one."""

    def __init__(self, action: Action, reason: Any, at: Any = None, nth: Any = 0) -> None:
        """at: a port or address; None for all."""
        if reason not in _REASONS:
            raise ValueError(f"no exit reason {reason!r:.80}: use one of {', '.join(_REASONS)}")
        self.action = action
        self._reason = reason
        self._at = None if at is None else check_int_range("port or address", at, 1 << 64)
        self._nth = check_int_range("nth", nth, 1 << 32)
        self._count = 0

    def matches(self, reason: str, at: int | None) -> bool:
        if reason != self._reason or self._at not in (None, at):
            return False
        self._count += 1
        return self._nth in (0, self._count)


class HookedBus:
    """A bus that one vCPU accesses through its exit hooks."""

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
    """Performs the operations, and keeps the callbacks that wait for a reply."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._vcpus = machine.vcpus
        self._lock = machine.buses.lock
        self._reply_received = threading.Condition(self._lock)
        self._calls = 0
        self._replies: dict[int, tuple[int | None, str] | None] = {}  # None: no reply yet
        self._hooks: dict[int, ExitHook] = {}
        self._interrupts: list[Callable[[int], None]] = []  # by device
        self._bitmap = b""  # of the slot that was read last

    def operations(self) -> dict[str, Callable[..., Any]]:
        return {
            "registers": self._registers,
            "set_registers": self._set_registers,
            "step": self._step,
            "read_memory": self._read_memory,
            "write_memory": self._write_memory,
            "log_dirty_pages": self._log_dirty_pages,
            "dirty_log_slots": self._dirty_log_slots,
            "dirty_bitmap": self._dirty_bitmap,
            "add_exit_hook": self._add_exit_hook,
            "remove_exit_hook": self._remove_exit_hook,
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
    def _paused(self, index: Any) -> Iterator[VcpuThread]:
        """A vCPU that does not run guest code while the block runs."""
        vcpu = self._vcpu(index)
        was_paused = vcpu.run_control.paused
        try:
            vcpu.run_control.pause()
            yield vcpu
        finally:
            if not was_paused:
                vcpu.run_control.resume()

    def _change(self, index: Any, action: Callable[[VcpuThread], None]) -> None:
        """Change a vCPU's state; if it waits in a callback, after the access that caused it."""
        with self._paused(index) as vcpu:
            if vcpu.run_control.in_callback:
                vcpu.run_control.defer(partial(_in_callback, action, vcpu))
            else:
                action(vcpu)

    def _registers(self, vcpu: Any) -> dict[str, Any]:
        with self._paused(vcpu) as paused:
            general, special = paused.registers(), paused.special()
        named: dict[str, Any] = {name: special[name][0] for name in CONTROL_NAMES}
        for names, fields in ((SEGMENT_NAMES, Segment._fields), (TABLE_NAMES, ("base", "limit"))):
            named.update({name: dict(zip(fields, special[name])) for name in names})
        return {"regs": general, "sregs": named}

    def _set_registers(self, vcpu: Any, values: dict[str, Any]) -> bool:
        for name, value in values.items():
            if name not in REGISTER_NAMES + CONTROL_NAMES:
                raise ValueError(f"register {name!r:.80} cannot be set")
            check_int_range(name, value, 1 << 64)
        general = {name: value for name, value in values.items() if name in REGISTER_NAMES}
        special = {name: (value,) for name, value in values.items() if name in CONTROL_NAMES}

        def change(paused: VcpuThread) -> None:
            if special:
                paused.set_special(special)
            if general:
                paused.set_registers({**paused.registers(), **general})

        self._change(vcpu, change)
        return True

    def _step(self, vcpu: Any, cancel: Any = False) -> bool:
        """Whether the instruction is executed; cancel pauses the vCPU before that."""
        chosen = self._vcpu(vcpu)
        if cancel:
            chosen.stepper.cancel()
            return False
        if not (chosen.run_control.paused or chosen.stepper.active):
            raise ValueError(f"vCPU {vcpu} is running: pause it first")
        return chosen.stepper.step(_STEP_TIMEOUT)

    def _read_memory(self, gpa: int, size: Any) -> str:
        view = self._machine.memory.view(gpa, check_int_range("size", size, CHUNK + 1))
        return base64.b64encode(view).decode()

    def _write_memory(self, gpa: int, data: str) -> bool:
        self._machine.memory.write(gpa, base64.b64decode(data, validate=True))
        return True

    def _log_dirty_pages(self, on: Any) -> bool:
        with self._lock:
            self._machine.vm.set_dirty_logging(bool(on))
        return True

    def _dirty_log_slots(self) -> list[tuple[int, int]]:
        with self._lock:
            return self._machine.vm.dirty_logged_slots()

    def _dirty_bitmap(self, slot: Any, at: Any = 0) -> tuple[str, bool]:
        """A chunk of Vm.read_dirty_log from byte `at` on, in base64, and whether more follows. At 0
        KVM's log is read again."""
        with self._lock:
            if slot not in dict(self._machine.vm.dirty_logged_slots()):
                raise ValueError("the dirty log is off: request log_dirty_pages first")
            if at == 0:
                self._bitmap = self._machine.vm.read_dirty_log(slot)
            start = check_int_range("at", at, len(self._bitmap) + 1)
            chunk = self._bitmap[start : start + CHUNK]
        return base64.b64encode(chunk).decode(), start + CHUNK < len(self._bitmap)

    # callbacks

    def call_back(self, event: str, **fields: Any) -> int | None:
        """Send a callback from a vCPU's thread and return its reply.

        Raises MachineEnd if the reply is an error.
        """
        thread = threading.current_thread()
        vcpu = next(one for one in self._vcpus if one.run_control.thread is thread)
        with self._reply_received:
            self._calls += 1
            call = self._calls
            self._replies[call] = None
            self._machine.event(event, call=call, vcpu=vcpu.index, **fields)
            with vcpu.run_control.callback_wait():
                self._reply_received.wait_for(lambda: self._replies[call])
            value, error = self._replies.pop(call) or (None, "")
        if error:
            raise MachineEnd("callback-error", error)
        return value

    def _reply(self, call: Any, value: Any = None, error: Any = "") -> bool:
        if value is not None and type(value) is not int:
            raise ValueError(f"a reply is a number or null, not {value!r:.80}")
        with self._reply_received:
            if self._replies.get(call, ()) is not None:
                raise ValueError(f"no call {call!r:.80} waits for a reply")
            self._replies[call] = (value, str(error)[:4000])
            self._reply_received.notify_all()
        return True

    # exits

    def _add_exit_hook(self, reason: Any, at: Any = None, nth: Any = 0) -> int:
        return self._add_hook(
            ExitHook(lambda vcpu, exit: self.call_back("exit", **exit), reason, at, nth)
        )

    def _remove_exit_hook(self, hook: Any) -> bool:
        with self._lock:
            self._hooks = {number: one for number, one in self._hooks.items() if number != hook}
        return True

    def _add_hook(self, hook: ExitHook) -> int:
        buses = self._machine.buses
        with self._lock:
            for vcpu in self._vcpus:
                # installed with the first hook: other machines have no overhead
                vcpu.pio = HookedBus(buses.pio, partial(self._run_hooks, vcpu, "io"))
                vcpu.mmio = HookedBus(buses.mmio, partial(self._run_hooks, vcpu, "mmio"))
                vcpu.on_final_exit = partial(self._run_final_hooks, vcpu)
            self._calls += 1
            self._hooks = {**self._hooks, self._calls: hook}
            return self._calls

    def _run_final_hooks(self, vcpu: VcpuThread, reason: int) -> None:
        self._run_hooks(vcpu, ioctls.EXIT_NAMES.get(reason, "unknown"))

    def _run_hooks(
        self, vcpu: VcpuThread, reason: str, at: int | None = None, **fields: Any
    ) -> int | None:
        """Run the hooks of one exit; returns the last answer."""
        answer = None
        for number, hook in self._hooks.items():
            if hook.matches(reason, at):
                value = hook.action(vcpu, {"hook": number, "reason": reason, "at": at, **fields})
                answer = answer if value is None else value
        return answer

    # devices

    def _add_port_device(self, **fields: Any) -> int:
        callback = partial(self.call_back, "access", device=len(self._interrupts))
        with self._lock:
            self._interrupts.append(
                callback_device.add_port_device(
                    self._machine.vm, self._machine.buses, callback, **fields
                )
            )
            return len(self._interrupts) - 1

    def _add_pci_device(self, **fields: Any) -> int:
        if self._machine.guest_started:
            raise ValueError("the guest has started: add PCI devices before")
        callback = partial(self.call_back, "access", device=len(self._interrupts))
        with self._lock:
            self._interrupts.append(
                callback_device.add_pci_device(
                    self._machine.vm, self._machine.chipset.bridge, callback, **fields
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
        """exit: fields of the ExitHook to wait for; None for a fault on `vcpu` now."""
        fault = faults.vcpu_fault(kind, vector, error_code)
        if exit is None:
            self._change(vcpu, fault)
        else:
            self._add_hook(
                ExitHook(
                    lambda vcpu, exit: vcpu.run_control.defer(partial(fault, vcpu)),
                    **{"nth": 1, **exit},
                )
            )
        return True

    def _fail_request(self, kind: Any, device: Any, nth: Any = 1) -> bool:
        """nth: counts the device's requests from now on."""
        faults.fail_request(self._machine.virtio.backends, kind, device, nth)
        return True


def _in_callback(action: Callable[[VcpuThread], None], vcpu: VcpuThread) -> None:
    """Perform a change that a callback requested, after its reply."""
    try:
        action(vcpu)
    except OSError as error:
        raise MachineEnd("callback-error", f"KVM refused a callback's change: {error}") from error
