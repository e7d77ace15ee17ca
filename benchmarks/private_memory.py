"""Private memory of a VMM process, from /proc/PID/smaps."""

from __future__ import annotations

import re

from harness.hosts.base import Host
from harness.vmm.devices.pci import ECAM_SIZE

_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ ", re.MULTILINE)


def parse_smaps(smaps: str) -> tuple[float, float]:
    """MiB private to a process without guest memory, and MiB of guest memory that it maps.

    Private is Private_Clean + Private_Dirty. Only mappings of memslots have the flag "hg"
    (MADV_HUGEPAGE). Pages shared with the agent, from which the process was forked, do not count.
    """
    private = guest = 0
    for mapping in _MAPPING.split(smaps)[1:]:
        fields = dict(re.findall(r"^(\w+): +(.*)$", mapping, re.MULTILINE))
        if "hg" in fields["VmFlags"].split():
            guest += int(fields["Size"].split()[0])
        else:
            private += sum(int(fields[f"Private_{kind}"].split()[0]) for kind in ("Clean", "Dirty"))
    return private / 1024, guest / 1024


def private_mib(host: Host, pid: int, guest_memory: int) -> float:
    """MiB private to a VMM process of a guest with `guest_memory` MiB."""
    private, guest = parse_smaps(host.run(["cat", f"/proc/{pid}/smaps"]).stdout)
    # The ECAM window of a machine with PCI is a memslot, too.
    expected = (guest_memory, guest_memory + ECAM_SIZE / (1 << 20))
    assert guest in expected, f"smaps shows {guest} MiB of guest memory, not {guest_memory}"
    return private
