"""What it costs a guest that the hypervisor notes which pages it writes, as a live migration does.

KVM takes the right to write away; the first write to each page is an exit that gives it back.
"""

from __future__ import annotations

import contextlib

import pytest

from harness.guest.factory import GuestFactory
from harness.guest.guest import Guest
from harness.plugin.fixtures import RecordSample
from suites.tool import time

pytestmark = pytest.mark.only_hypervisors("kvm")
PAGES = 4096  # 16 MiB
BATCHES = 5
EXITS = 0.8  # a page, at least, where writes are noted: its kernel may have written some before


def touch(guest: Guest) -> tuple[float, float]:
    """ns and exits a page of a first touch: the guest's kernel clears each page that it gives."""
    timed = time(guest, "hv-ops", "fault", PAGES, 1)
    return timed.batches[0]["ns"] / PAGES, timed.spent.counters["exits"] / PAGES


def test_dirty_log(guest_factory: GuestFactory, record_sample: RecordSample, boot: int) -> None:
    """In turn, the same pages with writes noted and without; all of them must be in the log."""
    guest = guest_factory("dirty")
    memory = guest.vm.memory
    touch(guest)  # from here on the host has memory behind these pages
    for batch in range(BATCHES):
        for logged in (False, True):
            with memory.writes_logged() if logged else contextlib.nullcontext() as log:
                ns, exits = touch(guest)
                if log is not None:
                    assert len(log.pages()) >= PAGES
                    assert exits > EXITS
            parameters = {"logged": "yes" if logged else "no"}
            for name, value, unit in (("touch", ns, "ns"), ("exits", exits, "exits/page")):
                metric = f"memory.dirty_log.{name}"
                record_sample(metric, value, unit, "lower", parameters, boot=boot, batch=batch)
    guest.stop()
