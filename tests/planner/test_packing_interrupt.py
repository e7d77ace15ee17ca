"""A search that is stopped gives the best packing so far."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from harness.planner.packing import solve
from harness.planner.problem import Problem
from tests.planner.packing_problems import host_type, problem_of, violations

ROOT = Path(__file__).resolve().parents[2]


def hard_problem(machines: int = 150) -> Problem:
    """Items of about a third of a host in several metrics: no bound is reached soon."""
    demand = np.random.default_rng(1).uniform(0.2, 0.5, (machines, 4, 6)).astype(np.float32)
    return problem_of(demand, host_type("h", 1, 1, 1, 1))


@pytest.mark.parametrize("machines", [150, 2000])
def test_no_time_still_gives_a_complete_packing(machines: int) -> None:
    problem = hard_problem(machines)
    packing = solve(problem, seconds=0)
    assert packing.status == "interrupted"
    assert violations(problem, packing) == []


def test_stop_ends_the_search() -> None:
    problem, calls = hard_problem(), iter([False] * 30)
    packing = solve(problem, seconds=600, stop=lambda: next(calls, True))
    assert packing.status == "interrupted"
    assert packing.seconds < 60
    assert violations(problem, packing) == []


def test_time_is_kept() -> None:
    packing = solve(hard_problem(), seconds=2)
    assert packing.seconds < 20


def test_control_c_ends_the_search_and_the_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    timer = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    packing = solve(hard_problem(), seconds=600)
    timer.join()
    assert packing.status == "interrupted"
    assert packing.seconds < 120
    assert signal.getsignal(signal.SIGINT) is before


def test_a_handler_of_the_caller_is_called_too() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        packing = solve(hard_problem(), seconds=600)
        timer.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert packing.status == "interrupted"
    assert seen == [signal.SIGINT]


def test_a_second_control_c_ends_the_program() -> None:
    program = (
        "from tests.planner.test_packing_interrupt import hard_problem\n"
        "from harness.planner.packing.budget import Budget\n"
        "import time\n"
        "with Budget(600).interruptible():\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(600)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        time.sleep(1)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(60) != 0


def test_a_search_in_another_thread_leaves_signals_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    found = []
    thread = threading.Thread(target=lambda: found.append(solve(hard_problem(20), seconds=1)))
    thread.start()
    thread.join()
    assert violations(hard_problem(20), found[0]) == []
    assert signal.getsignal(signal.SIGINT) is before
