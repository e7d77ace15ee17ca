"""The fuzz targets by name."""

from __future__ import annotations

from tests.vmm.fuzz import Target
from tests.vmm.fuzz_devices import (
    block,
    console,
    pci,
    serial_port,
    testdev_ports,
    virtio,
    virtqueue,
)
from tests.vmm.fuzz_inputs import config, control, guest_control, kernel, lines, snapshot
from tests.vmm.fuzz_introspection import flat, introspection
from tests.vmm.fuzz_unit_tests import multiboot_kernel, unit_tests
from tests.vmm.fuzz_userspace_devices import balloon, behind_transport, rng, virtio_console

TARGETS: dict[str, Target] = {
    "balloon": balloon,
    "behind": behind_transport,
    "block": block,
    "config": config,
    "console": console,
    "control": control,
    "flat": flat,
    "guest": guest_control,
    "kernel": kernel,
    "lines": lines,
    "multiboot": multiboot_kernel,
    "pci": pci,
    "rng": rng,
    "introspection": introspection,
    "serial": serial_port,
    "testdev": testdev_ports,
    "unittests": unit_tests,
    "snapshot": snapshot,
    "virtio": virtio,
    "virtio-con": virtio_console,
    "virtqueue": virtqueue,
}
