"""The state that KVM holds of a VM and its vCPUs: read from one machine, set in another.

What depends on what (KVM's api.rst and x86.c say it here and there): CPUID decides which registers
and MSRs there are; the local APIC's base and enable bit are in the special registers; a TSC
deadline counts only once the APIC's timer is in that mode and the TSC is right; reading the run
state (mp_state) may deliver INIT and SIPI, so that it is read first, but for what a pending
exception comes with; what waits in the IOAPIC goes to the local APICs, which must be there.
Structures: linux/kvm.h.
"""

from __future__ import annotations

import struct
from fcntl import ioctl
from typing import Any, NamedTuple, Protocol

from . import ioctls, structs
from .errors import ConfigError
from .vcpu import Vcpu
from .vm import Kvm, Vm

_TSC, _TSC_DEADLINE = 0x10, 0x6E0
_MSRS_AT_ONCE = 256  # KVM takes no more (E2BIG)
_ROOM = 1024  # MSRs and CPUID entries, with much to spare
_XSAVE_SIZE = 4096
_HINT = "restore it on the host that made it, or on one with the same CPU and kernel"


class Fields(Protocol):
    """What was read, by name, when it is to be set: it may come from anywhere. Each raises
    ConfigError for what is not there."""

    def data(self, name: str, size: int | None) -> bytes:
        """Bytes, `size` of them if it is given."""

    def number(self, name: str, limit: int) -> int:
        """A number from 0 to limit - 1."""

    def error(self, name: str, what: str) -> ConfigError:
        """To raise for a value that cannot be."""


class _Part(NamedTuple):
    """ioctls to read and to set a structure of `size` bytes, which begins with `start`."""

    get: int
    put: int
    size: int
    start: bytes = b""


_CHIP = (ioctls.GET_IRQCHIP, ioctls.SET_IRQCHIP, structs.IRQCHIP_SIZE)
_VM = {
    **{f"irqchip{chip}": _Part(*_CHIP, struct.pack("<I", chip)) for chip in range(3)},
    "pit": _Part(ioctls.GET_PIT2, ioctls.SET_PIT2, structs.PIT_STATE_SIZE),
    "clock": _Part(ioctls.GET_CLOCK, ioctls.SET_CLOCK, structs.CLOCK_SIZE),
}
# in the order of reading and of setting, the MSRs between them
_VCPU = {
    "mp_state": _Part(ioctls.GET_MP_STATE, ioctls.SET_MP_STATE, 4),
    "regs": _Part(ioctls.GET_REGS, ioctls.SET_REGS, structs.REGS.size),
    "sregs": _Part(ioctls.GET_SREGS, ioctls.SET_SREGS, structs.SREGS_SIZE),
    "xsave": _Part(ioctls.GET_XSAVE, ioctls.SET_XSAVE, _XSAVE_SIZE),
    "xcrs": _Part(ioctls.GET_XCRS, ioctls.SET_XCRS, structs.XCRS_SIZE),
    "debugregs": _Part(ioctls.GET_DEBUGREGS, ioctls.SET_DEBUGREGS, structs.DEBUGREGS_SIZE),
}
_LAPIC = {"lapic": _Part(ioctls.GET_LAPIC, ioctls.SET_LAPIC, structs.LAPIC_SIZE)}
_EVENTS = {
    "events": _Part(ioctls.GET_VCPU_EVENTS, ioctls.SET_VCPU_EVENTS, structs.VCPU_EVENTS_SIZE)
}


def _read(fd: int, parts: dict[str, _Part]) -> dict[str, bytearray]:
    state = {}
    for name, part in parts.items():
        buffer = bytearray(part.start.ljust(part.size, b"\0"))
        ioctl(fd, part.get, buffer)
        state[name] = buffer
    return state


def _check(saved: Fields, parts: dict[str, _Part]) -> dict[str, bytes]:
    return {name: saved.data(name, part.size) for name, part in parts.items()}


def _write(fd: int, parts: dict[str, _Part], state: dict[str, bytes]) -> None:
    for name, part in parts.items():
        try:
            # mutable: fcntl.ioctl copies at most 1,024 bytes of what is not
            ioctl(fd, part.put, bytearray(state[name]))
        except OSError as error:
            cause = f"KVM refuses the snapshot's {name}: {error.strerror}"
            raise ConfigError(cause, _HINT) from error


# MSRs


def msr_indices(kvm: Kvm) -> list[int]:
    """KVM_GET_MSR_INDEX_LIST: those that make up a vCPU's state."""
    buffer = bytearray(struct.pack("<I", _ROOM).ljust(4 + 4 * _ROOM, b"\0"))
    ioctl(kvm.fd, ioctls.GET_MSR_INDEX_LIST, buffer)
    (count,) = struct.unpack_from("<I", buffer)
    return list(struct.unpack_from(f"<{count}I", buffer, 4))


def _msr_call(fd: int, request: int, msrs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """One KVM_GET_MSRS or KVM_SET_MSRS: those that went through, up to the first refused."""
    table = struct.pack("<II", len(msrs), 0) + b"".join(
        structs.MSR_ENTRY.pack(*one) for one in msrs
    )
    buffer = bytearray(table.ljust(1025, b"\0"))
    done = ioctl(fd, request, buffer)
    return list(structs.MSR_ENTRY.iter_unpack(buffer[8 : 8 + structs.MSR_ENTRY.size * done]))


def read_msrs(fd: int, indices: list[int]) -> dict[int, int]:
    """Those of a vCPU's MSRs that can be read; KVM lists some that this CPU lacks."""
    values: dict[int, int] = {}
    while indices:
        asked = indices[:_MSRS_AT_ONCE]
        got = _msr_call(fd, ioctls.GET_MSRS, [(index, 0) for index in asked])
        values.update(got)
        indices = indices[len(got) + (len(got) < len(asked)) :]
    return values


def write_msrs(fd: int, wanted: dict[int, int]) -> None:
    """Set those that differ. Raises ConfigError for one that KVM refuses."""
    present = read_msrs(fd, list(wanted))
    changed = [
        pair for pair in wanted.items() if pair[0] == _TSC or present.get(pair[0]) != pair[1]
    ]
    changed.sort(key=lambda pair: pair[0] == _TSC_DEADLINE)  # last; else in KVM's own order
    while changed:
        done = len(_msr_call(fd, ioctls.SET_MSRS, changed[:_MSRS_AT_ONCE]))
        if done < min(len(changed), _MSRS_AT_ONCE):
            raise ConfigError(f"KVM refuses the snapshot's MSR {changed[done][0]:#x}", _HINT)
        changed = changed[done:]


# whole


def save_vcpu(vcpu: Vcpu, vm: Vm, indices: list[int]) -> dict[str, Any]:
    """All of a paused vCPU: bytes and numbers by name."""
    _read(vcpu.fd, _EVENTS)  # moves what a pending exception comes with into CR2 or DR6
    state: dict[str, Any] = {**_read(vcpu.fd, _vcpu_parts(vm))}
    msrs = read_msrs(vcpu.fd, indices)
    state["msrs"] = b"".join(structs.MSR_ENTRY.pack(*pair) for pair in msrs.items())
    state["cpuid"] = b"".join(structs.CPUID_ENTRY.pack(*entry) for entry in vcpu.cpuid)
    state["tsc_khz"] = ioctl(vcpu.fd, ioctls.GET_TSC_KHZ)
    # the timer may expire at any moment, which takes the deadline from the MSRs to the APIC
    return {**state, **_read(vcpu.fd, {**_LAPIC, **_EVENTS})}


def restore_vcpu(vcpu: Vcpu, vm: Vm, saved: Fields) -> None:
    """Set it all in a vCPU that has not run yet. Raises ConfigError for what cannot be, or KVM
    refuses."""
    parts = {**_vcpu_parts(vm), **_LAPIC}
    state = _check(saved, {**parts, **_EVENTS})
    msrs = dict(_entries(saved, "msrs", structs.MSR_ENTRY))
    khz = saved.number("tsc_khz", 1 << 31)
    entries = _entries(saved, "cpuid", structs.CPUID_ENTRY)
    vcpu.set_cpuid([structs.CpuidEntry(*entry) for entry in entries])
    if ioctl(vcpu.fd, ioctls.GET_TSC_KHZ) != khz:
        try:
            ioctl(vcpu.fd, ioctls.SET_TSC_KHZ, khz)
        except OSError as error:
            cause = f"the host cannot give a guest a TSC of {khz} kHz: {error.strerror}"
            raise ConfigError(cause, _HINT) from error
    _write(vcpu.fd, parts, state)
    write_msrs(vcpu.fd, msrs)
    _write(vcpu.fd, _EVENTS, state)


def _vcpu_parts(vm: Vm) -> dict[str, _Part]:
    """The table above, with the XSAVE area as large as this host's CPU has it."""
    large = vm.kvm.capability("XSAVE2", vm.fd)
    if large <= _XSAVE_SIZE:
        return _VCPU
    return {**_VCPU, "xsave": _Part(ioctls.GET_XSAVE2, ioctls.SET_XSAVE, large)}


def _entries(saved: Fields, name: str, entry: struct.Struct) -> list[Any]:
    data = saved.data(name, None)
    if len(data) % entry.size or len(data) > _ROOM * entry.size:
        raise saved.error(name, f"{len(data)} bytes, in entries of {entry.size}")
    return list(entry.iter_unpack(data))


def save_vm(vm: Vm) -> dict[str, bytearray]:
    """Interrupt controllers, timer and clock."""
    return _read(vm.fd, _VM)


def restore_vm(vm: Vm, saved: Fields) -> None:
    """Set them, after the vCPUs. Raises ConfigError."""
    state = _check(saved, _VM)
    # nanoseconds; the flags that reading gives are not for setting
    state["clock"] = state["clock"][:8].ljust(structs.CLOCK_SIZE, b"\0")
    _write(vm.fd, _VM, state)
