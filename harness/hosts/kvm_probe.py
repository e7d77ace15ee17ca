"""A program that runs a guest of one vCPU and one page to check that KVM works.

It prints "ok", or prints one line about the failure and exits with status 1. A separate process can
be killed if KVM hangs. Standard library only, Python >= 3.9. API: Documentation/virt/kvm/api.rst.
"""

import ctypes
import fcntl
import mmap
import os
import struct
import sys

KVM_GET_API_VERSION = 0xAE00
KVM_CREATE_VM = 0xAE01
KVM_GET_VCPU_MMAP_SIZE = 0xAE04
KVM_CREATE_VCPU = 0xAE41
KVM_SET_USER_MEMORY_REGION = 0x4020AE46
KVM_SET_TSS_ADDR = 0xAE47
KVM_RUN = 0xAE80
KVM_SET_REGS = 0x4090AE82
KVM_GET_SREGS = 0x8138AE83
KVM_SET_SREGS = 0x4138AE84
EXIT_IO, EXIT_HLT = 2, 5
CODE = bytes((0xB0, 0x5A, 0xE6, 0x10, 0xF4))  # mov al, 0x5a; out 0x10, al; hlt


def main(device: str) -> str:
    """Run the guest on `device`. Returns the failure, or ""."""
    kvm = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    version = fcntl.ioctl(kvm, KVM_GET_API_VERSION, 0)
    if version != 12:
        return f"KVM API version {version}, not 12"
    vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
    # Intel needs three pages for real mode. The address fits Python's ioctl(), a signed int.
    fcntl.ioctl(vm, KVM_SET_TSS_ADDR, 0x7FFBD000)
    page = mmap.mmap(-1, 4096)
    page[: len(CODE)] = CODE
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    fcntl.ioctl(vm, KVM_SET_USER_MEMORY_REGION, struct.pack("=IIQQQ", 0, 0, 0, 4096, address))
    vcpu = fcntl.ioctl(vm, KVM_CREATE_VCPU, 0)
    run = mmap.mmap(vcpu, fcntl.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0))
    sregs = bytearray(312)
    fcntl.ioctl(vcpu, KVM_GET_SREGS, sregs)
    struct.pack_into("=QIH", sregs, 0, 0, 0xFFFF, 0)  # cs: base, limit, selector
    fcntl.ioctl(vcpu, KVM_SET_SREGS, bytes(sregs))
    fcntl.ioctl(vcpu, KVM_SET_REGS, struct.pack("=18Q", *[0] * 17, 2))  # rip 0, rflags 2
    for expected in (EXIT_IO, EXIT_HLT):
        fcntl.ioctl(vcpu, KVM_RUN, 0)
        (reason,) = struct.unpack_from("=I", run, 8)
        if reason != expected:
            return f"a one-page guest exited with reason {reason}, not {expected}"
        if reason == EXIT_IO:
            _direction, _size, port, _count, offset = struct.unpack_from("=BBHIQ", run, 32)
            if (port, run[offset]) != (0x10, 0x5A):
                return f"a one-page guest wrote {run[offset]:#x} to port {port:#x}"
    return ""


if __name__ == "__main__":
    try:
        problem = main(sys.argv[1])
    except OSError as error:
        problem = f"{error}"
    sys.stdout.write((problem or "ok") + "\n")
    # _exit: the mapping of the page cannot be closed while a C type refers to it
    sys.stdout.flush()
    os._exit(1 if problem else 0)
