"""The cost of KVM's dirty log to a guest, as during a live migration.

KVM write-protects the guest's pages: the first write to each page is an exit that clears the
protection. Unit: ns and exits per page. Control: the same pages without the log, in alternation.
Each boot is a fresh guest with BATCHES batches.
"""

from __future__ import annotations

import contextlib

import pytest

from harness.guest.factory import GuestFactory
from harness.guest.guest import Guest
from harness.plugin.fixtures import RecordSample
from suites.timing_tools import run_tool

pytestmark = pytest.mark.only_hypervisors("kvm")
PAGES = 4096  # 16 MiB
BATCHES = 5
MIN_EXITS = 0.8  # per page with the log: the guest's kernel may have written some pages before


def touch_pages(guest: Guest) -> tuple[float, float]:
    """ns and exits per page of first writes. The guest's kernel clears each page at allocation."""
    run = run_tool(guest, "hv-ops", "page_fault", PAGES, 1)
    return run.batches[0]["ns"] / PAGES, run.usage.counters["exits"] / PAGES


def test_dirty_log(guest_factory: GuestFactory, record_sample: RecordSample, boot: int) -> None:
    """First writes to the same pages, without and with the log. The log must have all pages."""
    guest = guest_factory("dirty")
    memory = guest.vm.memory
    touch_pages(guest)  # now the host has memory behind these pages
    for batch in range(BATCHES):
        for logged in (False, True):
            with memory.log_dirty_pages() if logged else contextlib.nullcontext() as log:
                ns, exits = touch_pages(guest)
                if log is not None:
                    assert len(log.pages()) >= PAGES
                    assert exits > MIN_EXITS
            parameters = {"logged": "yes" if logged else "no"}
            for name, value, unit in (("touch", ns, "ns"), ("exits", exits, "exits/page")):
                metric = f"memory.dirty_log.{name}"
                record_sample(metric, value, unit, "lower", parameters, boot=boot, batch=batch)
    guest.stop()
