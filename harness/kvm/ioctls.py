"""KVM's ioctl numbers and exit reasons (linux/kvm.h)."""

from __future__ import annotations

from functools import partial

from . import ioctl_encoding

KVMIO = 0xAE

_io = partial(ioctl_encoding.io, KVMIO)
_iow = partial(ioctl_encoding.iow, KVMIO)
_ior = partial(ioctl_encoding.ior, KVMIO)
_iowr = partial(ioctl_encoding.iowr, KVMIO)

API_VERSION = 12

# /dev/kvm
GET_API_VERSION = _io(0x00)
CREATE_VM = _io(0x01)
GET_MSR_INDEX_LIST = _iowr(0x02, 4)
CHECK_EXTENSION = _io(0x03)
GET_VCPU_MMAP_SIZE = _io(0x04)
GET_SUPPORTED_CPUID = _iowr(0x05, 8)

# a VM
CREATE_VCPU = _io(0x41)
GET_DIRTY_LOG = _iow(0x42, 16)
SET_USER_MEMORY_REGION = _iow(0x46, 32)
SET_TSS_ADDR = _io(0x47)
SET_IDENTITY_MAP_ADDR = _iow(0x48, 8)
CREATE_IRQCHIP = _io(0x60)
IRQ_LINE = _iow(0x61, 8)
GET_IRQCHIP = _iowr(0x62, 520)
SET_IRQCHIP = _ior(0x63, 520)
REGISTER_COALESCED_MMIO = _iow(0x67, 16)
SET_GSI_ROUTING = _iow(0x6A, 8)
IRQFD = _iow(0x76, 32)
CREATE_PIT2 = _iow(0x77, 64)
IOEVENTFD = _iow(0x79, 64)
SET_CLOCK = _iow(0x7B, 48)
GET_CLOCK = _ior(0x7C, 48)
GET_PIT2 = _ior(0x9F, 112)
SET_PIT2 = _iow(0xA0, 112)

# a vCPU
RUN = _io(0x80)
GET_REGS = _ior(0x81, 144)
SET_REGS = _iow(0x82, 144)
GET_SREGS = _ior(0x83, 312)
SET_SREGS = _iow(0x84, 312)
GET_MSRS = _iowr(0x88, 8)
SET_MSRS = _iow(0x89, 8)
GET_LAPIC = _ior(0x8E, 1024)
SET_LAPIC = _iow(0x8F, 1024)
SET_CPUID2 = _iow(0x90, 8)
GET_MP_STATE = _ior(0x98, 4)
SET_MP_STATE = _iow(0x99, 4)
NMI = _io(0x9A)
SET_GUEST_DEBUG = _iow(0x9B, 72)
X86_SET_MCE = _iow(0x9E, 64)
GET_VCPU_EVENTS = _ior(0x9F, 64)
SET_VCPU_EVENTS = _iow(0xA0, 64)
GET_DEBUGREGS = _ior(0xA1, 128)
SET_DEBUGREGS = _iow(0xA2, 128)
SET_TSC_KHZ = _io(0xA2)
GET_TSC_KHZ = _io(0xA3)
GET_XSAVE = _ior(0xA4, 4096)
SET_XSAVE = _iow(0xA5, 4096)
GET_XCRS = _ior(0xA6, 392)
SET_XCRS = _iow(0xA7, 392)
KVMCLOCK_CTRL = _io(0xAD)
GET_XSAVE2 = _ior(0xCF, 4096)

# a VM or a vCPU
GET_STATS_FD = _io(0xCE)

# kvm_run.exit_reason
EXIT_UNKNOWN = 0
EXIT_EXCEPTION = 1
EXIT_IO = 2
EXIT_HYPERCALL = 3
EXIT_DEBUG = 4
EXIT_HLT = 5
EXIT_MMIO = 6
EXIT_SHUTDOWN = 8
EXIT_FAIL_ENTRY = 9
EXIT_INTR = 10
EXIT_INTERNAL_ERROR = 17
EXIT_SYSTEM_EVENT = 24

EXIT_NAMES = {
    EXIT_UNKNOWN: "unknown",
    EXIT_EXCEPTION: "exception",
    EXIT_IO: "io",
    EXIT_HYPERCALL: "hypercall",
    EXIT_DEBUG: "debug",
    EXIT_HLT: "hlt",
    EXIT_MMIO: "mmio",
    EXIT_SHUTDOWN: "shutdown",
    EXIT_FAIL_ENTRY: "fail-entry",
    EXIT_INTR: "intr",
    EXIT_INTERNAL_ERROR: "internal-error",
    EXIT_SYSTEM_EVENT: "system-event",
}
