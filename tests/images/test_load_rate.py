"""hv-load on this machine at ten times the load of the short profile: its CPU and its delay."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from suites.consolidation.judge import MAX_DELAY_SHARE, MAX_GENERATOR_CPU
from suites.consolidation.requests import latency_at
from suites.consolidation.tile import STANDARD, load_tile
from tests.images.loopback import load

CPUS = sorted(os.sched_getaffinity(0))
TILES = 4  # that the short profile measures in place
FACTOR = 10

# another load on the machine would delay hv-load
pytestmark = pytest.mark.long


def test_generator_is_on_time_at_ten_times_the_rate(tools: Path, tmp_path: Path) -> None:
    """Against a server on another CPU. pgbench is not part of hv-load."""
    if len(CPUS) < 2:
        pytest.skip("the server and hv-load need a CPU each")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    guests = [one for one in load_tile(STANDARD, "emulated").guests if one.server != "oltp"] * TILES
    lines = [f"echo 127.0.0.1 {port} {FACTOR * one.rate} {one.arrivals}\n" for one in guests]
    argv = [str(tools / "hv-job"), port, str(tmp_path / "count")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            os.sched_setaffinity(server.pid, CPUS[:1])
            assert server.stdout.readline() == b"listening\n"
            log = load(tools, "".join(lines), ramp=2, seconds=20, cpus=CPUS[-1:])
        finally:
            server.kill()
    delay, cpu = latency_at(log["delay"], 99), log.attrs["cpu_share"]
    figures = f"{len(log)} requests, CPU {cpu:.1%}, p99 of the delay {1000 * delay:.3f} ms"
    print(figures)
    assert len(log) == pytest.approx(21 * FACTOR * sum(one.rate for one in guests), rel=0.1)
    assert log["good"].all(), figures
    assert delay < MAX_DELAY_SHARE * min(one.floor for one in guests if one.floor), figures
    assert cpu <= MAX_GENERATOR_CPU, figures
