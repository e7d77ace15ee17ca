"""hv-load with a process for each CPU: a common schedule, one stream of records, and its ends."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from suites.consolidation.requests import read_hv_load
from tests.images.loopback import answer, load, serving
from tests.waiting import gone, wait_until

CPUS = sorted(os.sched_getaffinity(0))


def cpus(count: int) -> list[int]:
    """As many CPUs; one may have several processes."""
    return [CPUS[i % len(CPUS)] for i in range(count)]


@contextlib.contextmanager
def running(
    tools: Path, targets: str, count: int, seconds: float = 30
) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    """hv-load with `count` processes, and their ids. It is killed at the end."""
    argv = [str(tools / "hv-load"), "1", "0", str(seconds), "0", *map(str, cpus(count))]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(targets.encode())
            process.stdin.close()
            parent = psutil.Process(process.pid)
            assert wait_until(lambda: len(parent.children()) == count)
            yield process, [child.pid for child in parent.children()]
        finally:
            process.kill()


def outcome(log: pd.DataFrame) -> np.ndarray:
    """Target and arrival (us since the start) of each request, in order."""
    times = ((log["scheduled"] - log.attrs["started"]) * 1e6).round().astype(int)
    table: np.ndarray = np.array(sorted(zip(log["target"], times, strict=True)))
    return table


def test_schedule_does_not_depend_on_the_number_of_processes(tools: Path) -> None:
    with serving(answer(b"e")) as port:
        rates = (200, 5, 40, 40, 1)
        targets = "".join(f"echo 127.0.0.1 {port} {rate} poisson\n" for rate in rates)
        one, three = (load(tools, targets, ramp=0.5, cpus=cpus(n)) for n in (1, 3))
    assert one["good"].all()
    assert three["good"].all()
    assert outcome(one) == pytest.approx(outcome(three), abs=2)


def test_more_processes_than_targets(tools: Path) -> None:
    with serving(answer(b"e")) as port:
        log = load(tools, f"echo 127.0.0.1 {port} 20 periodic\n", cpus=cpus(4))
    assert len(log) == 20
    assert load(tools, "", cpus=cpus(4)).empty


def test_each_process_runs_on_its_cpu_without_rights(tools: Path) -> None:
    with serving(answer(b"e")) as port:
        targets = f"echo 127.0.0.1 {port} 10 poisson\n" * 4
        with running(tools, targets, 2) as (process, workers):
            assert process.stderr is not None
            assert process.stderr.readline().startswith(b"started ")
            for pid, cpu in zip(sorted(workers), cpus(2), strict=True):
                status = Path(f"/proc/{pid}/status")
                assert wait_until(partial(_is_confined, status))
                assert os.sched_getaffinity(pid) == {cpu}
                assert re.search(r"^CapEff:\t0+$", status.read_text(), re.MULTILINE)


def _is_confined(status: Path) -> bool:
    return "Seccomp:\t2" in status.read_text()


def test_rates_are_balanced(tools: Path) -> None:
    """The busiest server alone has as much load as the others together."""
    with serving(answer(b"e")) as port:
        rates = (90, 30, 30, 30)
        targets = "".join(f"echo 127.0.0.1 {port} {rate} periodic\n" for rate in rates)
        argv = [str(tools / "hv-load"), "1", "0", "1", "1", *map(str, cpus(2))]
        done = subprocess.run(argv, input=targets.encode(), capture_output=True, check=True)
    assert sorted(re.findall(rb"^records (\d+)$", done.stderr, re.MULTILINE)) == [b"90", b"90"]
    assert len(read_hv_load(done.stdout, done.stderr).requests) == 180


def test_killed_process_ends_all_with_an_error(tools: Path) -> None:
    with serving(answer(b"e")) as port:
        targets = f"echo 127.0.0.1 {port} 10 poisson\n" * 4
        with running(tools, targets, 3) as (process, workers):
            os.kill(workers[1], signal.SIGKILL)
            assert process.wait(20) == 1
            assert process.stdout is not None
            assert process.stderr is not None
            out, err = process.stdout.read(), process.stderr.read()
            assert re.search(rb"hv-load: the process of CPU \d+ was ended by signal 9", err)
            assert out == b""
            assert all(gone(pid) for pid in workers)


def test_processes_end_with_the_first_one(tools: Path) -> None:
    with serving(answer(b"e")) as port:
        targets = f"echo 127.0.0.1 {port} 10 poisson\n" * 4
        with running(tools, targets, 3) as (process, workers):
            process.kill()
            assert all(gone(pid) for pid in workers)


def test_full_disk_is_an_error(tools: Path) -> None:
    with serving(answer(b"e")) as port, Path("/dev/full").open("wb") as full:
        targets = f"echo 127.0.0.1 {port} 10 periodic\n"
        for count in (0, 2):
            argv = [str(tools / "hv-load"), "1", "0", "0.5", "0", *map(str, cpus(count))]
            done = subprocess.run(
                argv, input=targets.encode(), stdout=full, stderr=subprocess.PIPE, check=False
            )
            assert done.returncode == 1
            assert b"hv-load: records: No space left on device" in done.stderr


@pytest.mark.parametrize("cpu", ["-1", "x", "1024", "1.5"])
def test_wrong_cpu_is_named(tools: Path, cpu: str) -> None:
    argv = [str(tools / "hv-load"), "1", "0", "1", "1", cpu]
    done = subprocess.run(argv, input=b"", capture_output=True, check=False)
    assert done.returncode == 1
    assert b"hv-load: CPU must be a " in done.stderr


def test_missing_cpu_is_named(tools: Path) -> None:
    cpu = next(cpu for cpu in range(1023, 0, -1) if cpu not in CPUS)
    argv = [str(tools / "hv-load"), "1", "0", "1", "1", str(cpu)]
    done = subprocess.run(argv, input=b"", capture_output=True, check=False)
    assert done.returncode == 1
    assert f"hv-load: it cannot run on CPU {cpu}: Invalid argument".encode() in done.stderr
