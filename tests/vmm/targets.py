"""What is fuzzed: one function for each thing that reads what a guest or a client wrote."""

from __future__ import annotations

from tests.vmm.fuzz import Target
from tests.vmm.fuzz_devices import block, console, pci, serial_port, virtio, virtqueue
from tests.vmm.fuzz_inputs import config, control, guest_control, kernel, lines

TARGETS: dict[str, Target] = {
    "block": block,
    "config": config,
    "console": console,
    "control": control,
    "guest": guest_control,
    "kernel": kernel,
    "lines": lines,
    "pci": pci,
    "serial": serial_port,
    "virtio": virtio,
    "virtqueue": virtqueue,
}
