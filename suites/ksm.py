"""KSM, which lets pages of equal content share memory: its counters, and a block in which it works.

Source: Documentation/admin-guide/mm/ksm.rst in the Linux sources.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from harness.hosts.base import Host

FOLDER = "/sys/kernel/mm/ksm"
# of an emulated host: it scans 200,000 pages a second, or what its CPU permits
_SETTINGS = {"pages_to_scan": 4000, "sleep_millisecs": 20, "run": 1}


def read(host: Host, name: str) -> int:
    """A counter or a setting. pages_sharing: places that share a page, beyond the first one."""
    return int(host.run(["cat", f"{FOLDER}/{name}"]).stdout)


def skip_without(host: Host) -> None:
    """Skip the test on a host where at_work() cannot make KSM work."""
    if host.run(["test", "-e", f"{FOLDER}/run"], check=False).status:
        pytest.skip(f"the kernel of {host.name} has no KSM; hint: use a kernel with CONFIG_KSM")
    if not host.emulated and read(host, "run") != 1:
        pytest.skip(f"KSM is off and this host is shared; hint: echo 1 > {FOLDER}/run")


@contextlib.contextmanager
def at_work(host: Host) -> Iterator[None]:
    """Run a block with KSM on, or skip the test.

    The settings of an emulated host are changed and restored. Those of another host are not
    touched, since it is shared.
    """
    skip_without(host)
    with contextlib.ExitStack() as undo:
        for name, value in _SETTINGS.items() if host.emulated else ():
            undo.callback(_write, host, name, read(host, name))
            _write(host, name, value)
        yield


def _write(host: Host, name: str, value: int) -> None:
    host.run(["sh", "-c", f"echo {value} > {FOLDER}/{name}"])
