"""The state that KVM holds of a VM and its vCPUs: read from one machine, set in another.

The order matters (KVM's api.rst and x86.c):

- CPUID decides which registers and MSRs exist.
- The special registers hold the local APIC's base and enable bit.
- A TSC deadline takes effect only if the APIC's timer is in that mode and the TSC is right.
- Reading the run state (mp_state) may deliver INIT and SIPI. It is read first, except for what
  belongs to a pending exception.
- The IOAPIC's pending interrupts go to the local APICs, which must be set before.

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
_MSR_BATCH = 256  # KVM accepts no more in one call (E2BIG)
_MAX_ENTRIES = 1024  # MSRs and CPUID entries; KVM has far fewer
_XSAVE_SIZE = 4096
_HINT = "restore the snapshot on the host that created it, or on one with the same CPU and kernel"


class StateFields(Protocol):
    """Reads saved state, which may come from anywhere. Every method raises ConfigError for a field
    that is missing or wrong."""

    def read_bytes(self, name: str, size: int | None) -> bytes:
        """Bytes. size: how many there must be, None for any number."""

    def read_int(self, name: str, limit: int) -> int:
        """An integer from 0 to limit - 1."""

    def error(self, name: str, problem: str) -> ConfigError:
        """The error to raise for a field that is wrong."""


class _StateIoctls(NamedTuple):
    """The ioctls that read and set one structure of `size` bytes. prefix: its first bytes, which
    select what KVM_GET returns."""

    get: int
    put: int
    size: int
    prefix: bytes = b""


_IRQCHIP = (ioctls.GET_IRQCHIP, ioctls.SET_IRQCHIP, structs.IRQCHIP_SIZE)
_VM = {
    **{f"irqchip{chip}": _StateIoctls(*_IRQCHIP, struct.pack("<I", chip)) for chip in range(3)},
    "pit": _StateIoctls(ioctls.GET_PIT2, ioctls.SET_PIT2, structs.PIT_STATE_SIZE),
    "clock": _StateIoctls(ioctls.GET_CLOCK, ioctls.SET_CLOCK, structs.CLOCK_SIZE),
}
# in the order of reading and of setting
_VCPU = {
    "mp_state": _StateIoctls(ioctls.GET_MP_STATE, ioctls.SET_MP_STATE, 4),
    "regs": _StateIoctls(ioctls.GET_REGS, ioctls.SET_REGS, structs.REGS.size),
    "sregs": _StateIoctls(ioctls.GET_SREGS, ioctls.SET_SREGS, structs.SREGS_SIZE),
    "xsave": _StateIoctls(ioctls.GET_XSAVE, ioctls.SET_XSAVE, _XSAVE_SIZE),
    "xcrs": _StateIoctls(ioctls.GET_XCRS, ioctls.SET_XCRS, structs.XCRS_SIZE),
    "debugregs": _StateIoctls(ioctls.GET_DEBUGREGS, ioctls.SET_DEBUGREGS, structs.DEBUGREGS_SIZE),
}
_LAPIC = {"lapic": _StateIoctls(ioctls.GET_LAPIC, ioctls.SET_LAPIC, structs.LAPIC_SIZE)}
_EVENTS = {
    "events": _StateIoctls(ioctls.GET_VCPU_EVENTS, ioctls.SET_VCPU_EVENTS, structs.VCPU_EVENTS_SIZE)
}


def _read(fd: int, parts: dict[str, _StateIoctls]) -> dict[str, bytearray]:
    state = {}
    for name, part in parts.items():
        buffer = bytearray(part.prefix.ljust(part.size, b"\0"))
        ioctl(fd, part.get, buffer)
        state[name] = buffer
    return state


def _read_saved(saved: StateFields, parts: dict[str, _StateIoctls]) -> dict[str, bytes]:
    return {name: saved.read_bytes(name, part.size) for name, part in parts.items()}


def _write(fd: int, parts: dict[str, _StateIoctls], state: dict[str, bytes]) -> None:
    for name, part in parts.items():
        try:
            # fcntl.ioctl copies at most 1,024 bytes of an immutable buffer
            ioctl(fd, part.put, bytearray(state[name]))
        except OSError as error:
            cause = f"KVM refuses the snapshot's {name}: {error.strerror}"
            raise ConfigError(cause, _HINT) from error


# MSRs


def msr_indices(kvm: Kvm) -> list[int]:
    """The MSRs that make up a vCPU's state (KVM_GET_MSR_INDEX_LIST)."""
    buffer = bytearray(struct.pack("<I", _MAX_ENTRIES).ljust(4 + 4 * _MAX_ENTRIES, b"\0"))
    ioctl(kvm.fd, ioctls.GET_MSR_INDEX_LIST, buffer)
    (count,) = struct.unpack_from("<I", buffer)
    return list(struct.unpack_from(f"<{count}I", buffer, 4))


def _msr_call(fd: int, request: int, msrs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """One KVM_GET_MSRS or KVM_SET_MSRS. Returns the MSRs before the first that KVM refused."""
    table = struct.pack("<II", len(msrs), 0) + b"".join(
        structs.MSR_ENTRY.pack(*one) for one in msrs
    )
    buffer = bytearray(table.ljust(1025, b"\0"))
    done = ioctl(fd, request, buffer)
    return list(structs.MSR_ENTRY.iter_unpack(buffer[8 : 8 + structs.MSR_ENTRY.size * done]))


def read_msrs(fd: int, indices: list[int]) -> dict[int, int]:
    """The values of a vCPU's MSRs. MSRs that KVM lists but this CPU lacks are left out."""
    values: dict[int, int] = {}
    while indices:
        batch = indices[:_MSR_BATCH]
        entries = _msr_call(fd, ioctls.GET_MSRS, [(index, 0) for index in batch])
        values.update(entries)
        indices = indices[len(entries) + (len(entries) < len(batch)) :]
    return values


def write_msrs(fd: int, values: dict[int, int]) -> None:
    """Set the MSRs that differ. Raises ConfigError for one that KVM refuses."""
    present = read_msrs(fd, list(values))
    changed = [
        pair for pair in values.items() if pair[0] == _TSC or present.get(pair[0]) != pair[1]
    ]
    changed.sort(key=lambda pair: pair[0] == _TSC_DEADLINE)  # last; the others in KVM's own order
    while changed:
        done = len(_msr_call(fd, ioctls.SET_MSRS, changed[:_MSR_BATCH]))
        if done < min(len(changed), _MSR_BATCH):
            raise ConfigError(f"KVM refuses the snapshot's MSR {changed[done][0]:#x}", _HINT)
        changed = changed[done:]


# vCPUs and VM


def save_vcpu(vcpu: Vcpu, vm: Vm, indices: list[int]) -> dict[str, Any]:
    """The state of a paused vCPU: bytes and integers by name. indices: see msr_indices."""
    _read(vcpu.fd, _EVENTS)  # moves a pending exception's payload into CR2 or DR6
    state: dict[str, Any] = {**_read(vcpu.fd, _vcpu_parts(vm))}
    msrs = read_msrs(vcpu.fd, indices)
    state["msrs"] = b"".join(structs.MSR_ENTRY.pack(*pair) for pair in msrs.items())
    state["cpuid"] = b"".join(structs.CPUID_ENTRY.pack(*entry) for entry in vcpu.cpuid)
    state["tsc_khz"] = ioctl(vcpu.fd, ioctls.GET_TSC_KHZ)
    # after the MSRs: a timer that expires moves the deadline from the MSRs to the APIC
    return {**state, **_read(vcpu.fd, {**_LAPIC, **_EVENTS})}


def restore_vcpu(vcpu: Vcpu, vm: Vm, saved: StateFields) -> None:
    """Set the state of a vCPU that has not run yet. Raises ConfigError for a field that is wrong,
    or that KVM refuses."""
    parts = {**_vcpu_parts(vm), **_LAPIC}
    state = _read_saved(saved, {**parts, **_EVENTS})
    msrs = dict(_read_entries(saved, "msrs", structs.MSR_ENTRY))
    khz = saved.read_int("tsc_khz", 1 << 31)
    entries = _read_entries(saved, "cpuid", structs.CPUID_ENTRY)
    vcpu.set_cpuid([structs.CpuidEntry(*entry) for entry in entries])
    if ioctl(vcpu.fd, ioctls.GET_TSC_KHZ) != khz:
        try:
            ioctl(vcpu.fd, ioctls.SET_TSC_KHZ, khz)
        except OSError as error:
            cause = f"the host cannot provide a TSC of {khz} kHz: {error.strerror}"
            raise ConfigError(cause, _HINT) from error
    _write(vcpu.fd, parts, state)
    write_msrs(vcpu.fd, msrs)
    _write(vcpu.fd, _EVENTS, state)


def _vcpu_parts(vm: Vm) -> dict[str, _StateIoctls]:
    """_VCPU with the XSAVE area's size on this host."""
    size = vm.kvm.capability("XSAVE2", vm.fd)
    if size <= _XSAVE_SIZE:
        return _VCPU
    return {**_VCPU, "xsave": _StateIoctls(ioctls.GET_XSAVE2, ioctls.SET_XSAVE, size)}


def _read_entries(saved: StateFields, name: str, entry: struct.Struct) -> list[Any]:
    data = saved.read_bytes(name, None)
    if len(data) % entry.size or len(data) > _MAX_ENTRIES * entry.size:
        raise saved.error(name, f"{len(data)} bytes, in entries of {entry.size}")
    return list(entry.iter_unpack(data))


def save_vm(vm: Vm) -> dict[str, bytearray]:
    """The state of the interrupt controllers, the timer and the clock."""
    return _read(vm.fd, _VM)


def restore_vm(vm: Vm, saved: StateFields) -> None:
    """Set the VM's state, after its vCPUs'. Raises ConfigError."""
    state = _read_saved(saved, _VM)
    # nanoseconds only: the flags that KVM_GET_CLOCK returns are invalid in KVM_SET_CLOCK
    state["clock"] = state["clock"][:8].ljust(structs.CLOCK_SIZE, b"\0")
    _write(vm.fd, _VM, state)
