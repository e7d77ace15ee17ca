"""One vCPU of KVM: its registers, its CPUID, and the page it shares with user space."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from fcntl import ioctl

from . import ioctls, structs
from .cpuid import set_cpuid
from .vm import Vm


def _layout() -> dict[str, tuple[int, struct.Struct]]:
    """Offset and format of each part of struct kvm_sregs."""
    parts, at = {}, 0
    for names, layout in (
        (structs.SEGMENT_NAMES, structs.SEGMENT),
        (structs.TABLE_NAMES, structs.DTABLE),
        (structs.CONTROL_NAMES, structs.CONTROL),
    ):
        for name in names:
            parts[name] = (at, layout)
            at += layout.size
    return parts


_SREGS = _layout()


class Vcpu:
    """run: struct kvm_run. cpuid: the entries that were set."""

    def __init__(self, vm: Vm, index: int) -> None:
        self.index = index
        self.fd = ioctl(vm.fd, ioctls.CREATE_VCPU, index)
        self.run = mmap.mmap(self.fd, vm.kvm.run_size)
        self.cpuid: list[structs.CpuidEntry] = []

    def set_cpuid(self, entries: list[structs.CpuidEntry]) -> None:
        """Set the vCPU's CPUID, before it first runs."""
        self.cpuid = entries
        set_cpuid(self.fd, entries)

    def registers(self) -> dict[str, int]:
        """The general registers by name (struct kvm_regs). The vCPU must not be running."""
        buffer = bytearray(structs.REGS.size)
        ioctl(self.fd, ioctls.GET_REGS, buffer)
        return dict(zip(structs.REGISTER_NAMES, structs.REGS.unpack(buffer)))

    def set_registers(self, values: dict[str, int]) -> None:
        """Set registers by name. Registers that are left out become 0."""
        packed = structs.REGS.pack(*(values.get(name, 0) for name in structs.REGISTER_NAMES))
        ioctl(self.fd, ioctls.SET_REGS, packed)

    def special(self) -> dict[str, tuple[int, ...]]:
        """Segments, tables and control registers (struct kvm_sregs) by name, each as the fields of
        its structure. The vCPU must not be running."""
        buffer = self._sregs()
        return {name: layout.unpack_from(buffer, at) for name, (at, layout) in _SREGS.items()}

    def set_special(self, values: Mapping[str, tuple[int, ...]]) -> None:
        """Set some special registers. Raises OSError (EINVAL) for a state that no CPU can have."""
        buffer = self._sregs()
        for name, fields in values.items():
            at, layout = _SREGS[name]
            layout.pack_into(buffer, at, *fields)
        ioctl(self.fd, ioctls.SET_SREGS, buffer)

    def _sregs(self) -> bytearray:
        buffer = bytearray(structs.SREGS_SIZE)
        ioctl(self.fd, ioctls.GET_SREGS, buffer)
        return buffer

    def single_step(self, on: bool) -> None:
        """Cause an exit after each instruction, or no longer (KVM_SET_GUEST_DEBUG)."""
        control = structs.DEBUG_ENABLE | structs.DEBUG_SINGLE_STEP if on else 0
        ioctl(self.fd, ioctls.SET_GUEST_DEBUG, structs.GUEST_DEBUG.pack(control))
