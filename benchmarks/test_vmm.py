"""Python code of the built-in VMM without a guest, timed by pytest-benchmark.

    pytest benchmarks/test_vmm.py

Two operations: a read of PCI configuration space through the port bus, of which a kernel makes
hundreds during its boot; and a 4 KiB disk request that the VMM serves itself, from the descriptors
to the used ring.
"""

from __future__ import annotations

import os
from pathlib import Path

from pytest_benchmark.fixture import BenchmarkFixture

from harness.vmm.devices.bus import Buses
from harness.vmm.devices.pci import CONFIG_ADDRESS, CONFIG_DATA, HostBridge
from harness.vmm.devices.virtio.block import Block
from harness.vmm.devices.virtio.queue import Queue
from harness.vmm.memory import Memory
from tests.vmm.driver import WRITE, Driver, serve

HEADER, DATA, STATUS = 0x10_0000, 0x11_0000, 0x12_0000
BLOCK = 4096


def test_pci_configuration_read(benchmark: BenchmarkFixture) -> None:
    """A write to the address port and a read from the data port."""
    buses = Buses()
    HostBridge(buses)

    def read() -> int:
        buses.pio.write(CONFIG_ADDRESS, 4, 0x8000_0000)
        return buses.pio.read(CONFIG_DATA, 4)

    assert benchmark(read) == 0x0008_1B36


def test_disk_request_in_process(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """A read of one block: three descriptors and one preadv."""
    content = os.urandom(BLOCK)
    (tmp_path / "disk").write_bytes(content)
    memory = Memory(4 << 20)
    device = Block(str(tmp_path / "disk"), "disk", True, False, lambda end: None)
    driver = Driver(memory)
    queue = Queue(memory, driver.ring, event_index=False)
    chain = [(HEADER, 16, 0), (DATA, BLOCK, WRITE), (STATUS, 1, WRITE)]

    def request() -> int:
        driver.offer(chain)
        return serve(device, queue)

    assert benchmark(request) == BLOCK + 1
    assert memory.view(DATA, BLOCK) == content
