"""A load on this machine: hv-load and a program that stands for pgbench, and their failures."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.errors import CommandError, HarnessError, WorkloadError
from harness.hosts.local import LocalHost
from harness.ssh.errors import Server
from harness.ssh.process import Process
from suites.consolidation import generator, pgbench
from suites.consolidation.generator import LoadGenerator, LoadRun, ServersLateError
from suites.consolidation.target import Schedule, Target
from tests.images.loopback import answer, serving
from tests.waiting import gone, wait_until

CPUS = sorted(os.sched_getaffinity(0))[-1:]
LONG = Schedule(ramp=0, measure=60, drain=0)


class LocalGuest:
    """This machine in place of the container; it has what LoadRun needs of a guest."""

    name = "generator"

    def __init__(self) -> None:
        self.host = LocalHost()
        self.ssh = self

    def run(self, argv: Sequence[str] | str, *, check: bool = True) -> None:
        words = ["sh", "-c", argv] if isinstance(argv, str) else argv
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise CommandError(words, done.returncode, done.stdout, done.stderr)

    def run_bytes(
        self,
        argv: Sequence[str],
        *,
        timeout: float = 30.0,
        input: bytes = b"",
        on_stderr: Callable[[bytes], object] = lambda messages: None,
    ) -> tuple[int, bytes, bytes]:
        """A command that is late runs on, as it does over SSH."""
        messages, output = bytearray(), bytearray()
        pipe = subprocess.PIPE
        process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe)
        assert process.stdin is not None

        def follow() -> None:
            for line in process.stderr or ():
                messages.extend(line)
                on_stderr(bytes(messages))

        def collect() -> None:
            output.extend(process.stdout.read() if process.stdout else b"")

        followers = [threading.Thread(target=one, daemon=True) for one in (follow, collect)]
        for one in followers:
            one.start()
        with contextlib.suppress(BrokenPipeError):  # it failed before it read all
            process.stdin.write(input)
            process.stdin.close()
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Server("guest generator", self.name).late("the command", timeout) from None
        for one in followers:
            one.join()
        return status, bytes(output), bytes(messages)

    def popen(self, argv: Sequence[str]) -> Process:
        return self.host.spawn(argv)


class Bench:
    """Starts loads natively. pgbench(script): a shell script in place of pgbench."""

    def __init__(self, folder: Path) -> None:
        self.guest = LocalGuest()
        self.folder = folder / "load"
        self._program = folder / "pgbench"

    def start(self, targets: Sequence[Target], schedule: Schedule) -> LoadRun:
        guest: Any = self.guest
        return LoadRun(guest, targets, schedule, 1, CPUS)

    def pgbench(self, script: str) -> None:
        self._program.write_text(f"#!/bin/sh\necho $$ >{self._program}.pid\n{script}\n")
        self._program.chmod(0o755)

    @property
    def pgbench_pid(self) -> int:
        return int(Path(f"{self._program}.pid").read_text())

    def hv_load_pids(self) -> list[int]:
        """Of the first process and of that of its CPU."""
        path = self.folder / "hv-load.pid"
        assert wait_until(lambda: path.exists() and path.read_text().strip())
        parent = int(path.read_text())
        children = Path(f"/proc/{parent}/task/{parent}/children")
        assert wait_until(lambda: children.read_text().split())
        return [parent, *map(int, children.read_text().split())]


@pytest.fixture
def bench(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    one = Bench(tmp_path)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setattr(generator, "FOLDER", str(one.folder))
    monkeypatch.setattr(pgbench, "NOBODY", ())
    monkeypatch.setattr(pgbench, "PROGRAM", str(tmp_path / "pgbench"))
    yield one
    one.guest.host.close()


def echo(port: int, rate: float = 50) -> Target:
    return Target("echo", "127.0.0.1", port, rate, "periodic")


DATABASE = Target("pgbench", "127.0.0.1", 5432, 10)
# the options of pgbench that the script gets
PREFIX = 'for word; do case "$word" in --log-prefix=*) log="${word#*=}.1";; esac; done'
PROGRESS = 'echo "progress: $(date +%s).0 s, 1.0 tps" >&2'


def test_load_of_two_generators_is_one_log(bench: Bench) -> None:
    write = 'while sleep 0.1; do echo "0 1 1000 0 $(date +%s) 0 10" >>$log; done'
    bench.pgbench(f"{PREFIX}\n{PROGRESS}\n{write} & trap 'kill $!; exit' ALRM\nwait")
    with serving(answer(b"e")) as port:
        run = bench.start([echo(port), DATABASE, echo(port, 20)], Schedule(0.5, 1, 0.5))
        load = run.finish()
    assert load.end - load.start == pytest.approx(1)
    assert load.requests["scheduled"].between(load.start, load.end, inclusive="left").all()
    counts = load.requests.groupby("target").size()
    assert counts[0] == pytest.approx(50, abs=1)
    assert counts[2] == pytest.approx(20, abs=1)
    assert 3 <= counts[1] <= 11
    assert load.requests["good"].all()
    assert load.notes == {1: ""}
    assert 0 < load.cpu_share < 1


def test_window_is_known_when_the_ramp_begins(bench: Bench) -> None:
    with serving(answer(b"e")) as port:
        run = bench.start([echo(port, 200)], Schedule(0.5, 0.5, 0.5))
        window = run.wait_for_start()
        known = time.monotonic()
        load = run.finish()
    assert window.start - 0.5 - 0.1 < known < window.start
    assert window.start <= window.local_start + 0.1 < window.start + 0.2
    assert window.seconds == pytest.approx(0.5)
    assert load.start == pytest.approx(time.time() - time.monotonic() + window.start, abs=0.01)


def test_failure_before_the_ramp_is_an_error(bench: Bench) -> None:
    run = bench.start([Target("ftp", "127.0.0.1", 21, 1)], LONG)
    with pytest.raises(WorkloadError, match="unknown protocol ftp"):
        run.wait_for_start()


@pytest.mark.parametrize("which", [0, 1])
def test_killed_hv_load_is_an_error_and_ends_all(bench: Bench, which: int) -> None:
    bench.pgbench(f"{PROGRESS}; exec sleep 300")
    with serving(answer(b"e")) as port:
        run = bench.start([echo(port), DATABASE], LONG)
        pids = bench.hv_load_pids()
        os.kill(pids[which], signal.SIGKILL)
        start = time.monotonic()
        with pytest.raises(WorkloadError) as caught:
            run.finish()
    assert time.monotonic() - start < 20
    reason = ("it was killed", "was ended by signal 9")[which]
    assert "the load generator failed: " in caught.value.cause
    assert reason in caught.value.cause
    assert caught.value.hint
    assert (caught.value.stage, caught.value.guest) == ("run", "generator")
    assert all(gone(pid) for pid in [*pids, bench.pgbench_pid])


def test_hv_load_that_hangs_is_an_error_and_ends(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "_SLACK", 1.0)
    bench.pgbench(f"{PROGRESS}; exec sleep 300")
    with serving(answer(b"e")) as port:
        run = bench.start([echo(port), DATABASE], Schedule(0, 0.5, 0))
        pids = bench.hv_load_pids()
        os.kill(pids[0], signal.SIGSTOP)
        with pytest.raises(WorkloadError, match="the command on guest generator did not end"):
            run.finish()
    assert all(gone(pid) for pid in [*pids, bench.pgbench_pid])


def test_databases_that_connect_late_are_an_error(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one's load would end before the window does."""
    monkeypatch.setattr(generator, "_MAX_CONNECT", 0.2)
    bench.pgbench(f"sleep 0.7; {PROGRESS}; exec sleep 300")
    with pytest.raises(ServersLateError, match="databases took 1 s to accept") as caught:
        bench.start([DATABASE], Schedule(0, 1, 0.1))
    assert "fewer tiles" in caught.value.hint
    assert gone(bench.pgbench_pid)


def test_pgbench_has_the_rate_and_runs_until_the_answers_have_come(
    bench: Bench, tmp_path: Path
) -> None:
    bench.pgbench(f'echo "$*" >{tmp_path}/options; {PROGRESS}')
    bench.start([echo(1), DATABASE], Schedule(2, 20, 3, database_drain=7)).abort()
    options = (tmp_path / "options").read_text()
    # 30 s more, as it starts before hv-load; a client for each arrival of two seconds
    for option in ("--rate=10", "--time=59", "--client=20", "--random-seed=2", "--log"):
        assert f" {option} " in options
    assert "host=127.0.0.1 port=5432 user=postgres dbname=postgres " in options
    assert "tcp_user_timeout=7000" in options


def test_abort_ends_all(bench: Bench) -> None:
    bench.pgbench(f"{PROGRESS}; exec sleep 300")
    with serving(answer(b"e")) as port:
        run = bench.start([echo(port), DATABASE], LONG)
        pids = bench.hv_load_pids()
        run.abort()
        run.abort()
    assert all(gone(pid) for pid in [*pids, bench.pgbench_pid])


def test_abort_before_hv_load_runs_ends_it(bench: Bench, tools: Path, tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "hv-load").write_text(f'#!/bin/sh\nsleep 0.3; exec {tools}/hv-load "$@"\n')
    (slow / "hv-load").chmod(0o755)
    os.environ["PATH"] = f"{slow}:{os.environ['PATH']}"  # the fixture restores it
    with serving(answer(b"e")) as port:
        run = bench.start([echo(port)], LONG)
        start = time.monotonic()
        run.abort()
        assert time.monotonic() - start < 5
    with pytest.raises(WorkloadError, match="the load generator failed"):
        run.finish()


def test_failed_start_leaves_no_generator(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.pgbench(f"{PROGRESS}; exec sleep 300")
    popen: Callable[[Sequence[str]], Process] = bench.guest.popen
    started: list[Process] = []

    def fail_second(argv: Sequence[str]) -> Process:
        if started:
            raise HarnessError("the connection was lost")
        started.append(popen(argv))
        return started[0]

    monkeypatch.setattr(bench.guest, "popen", fail_second)
    with pytest.raises(HarnessError, match="the connection was lost"):
        bench.start([DATABASE, DATABASE], LONG)
    assert started[0].wait(10) != 0


def test_message_of_hv_load_is_the_cause(bench: Bench) -> None:
    run = bench.start([Target("ftp", "127.0.0.1", 21, 1)], LONG)
    with pytest.raises(WorkloadError, match="hv-load: target 0 has the unknown protocol ftp"):
        run.finish()


SUMMARY = 'echo "number of transactions actually processed: 100"'


def test_transactions_that_are_not_logged_are_an_error(bench: Bench) -> None:
    """pgbench itself does not notice that its log cannot be written."""
    bench.pgbench(f'{PREFIX}\n{PROGRESS}; echo "0 1 1000 0 100 0 10" >$log\n{SUMMARY}')
    run = bench.start([DATABASE], Schedule(0, 0.2, 0))
    with pytest.raises(WorkloadError, match="pgbench logged 1 of 100 transactions") as caught:
        run.finish()
    assert "may be full" in caught.value.hint


def test_full_disk_is_an_error(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """hv-load's process id, and pgbench's log."""
    bench.folder.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=8k,mode=0777", "none", str(bench.folder)]
    if subprocess.run(mounted, capture_output=True, check=False).returncode:
        pytest.skip("this user cannot mount a tmpfs")
    try:
        monkeypatch.setattr(bench.guest, "run", lambda argv, check=True: None)
        (bench.folder / "other").write_bytes(b"x" * 4096)
        lines = 'for i in $(seq 100); do echo "$i 1 1000 0 $(date +%s) 0 10 $(seq 50)"; done'
        bench.pgbench(f"{PREFIX}\n{PROGRESS}; {lines} >$log 2>/dev/null\n{SUMMARY}")
        run = bench.start([DATABASE], Schedule(0, 0.2, 0))
        full = r"No space left|I/O error|pgbench logged \d+ of 100"
        with pytest.raises(WorkloadError, match=full):
            run.finish()
    finally:
        subprocess.run(["umount", "--lazy", str(bench.folder)], check=True)


def test_cost_of_the_largest_load_limits_further_ones() -> None:
    one = LoadGenerator.__new__(LoadGenerator)
    one.cpus, one._memory, one._cost = (3,), 1024, None
    larger = [echo(7, 5000)] * 4
    assert one.blocker(larger, Schedule(0, 1, 0)) == ""
    one.observe([echo(7, 5000)], 0.2)
    one.observe([echo(7, 10)], 0.1)  # its cost for a request says little about many
    assert "20000 requests/s need about 80% of its 1 CPUs" in one.blocker(larger, Schedule(0, 1, 0))


def test_clients_that_give_up_are_dated() -> None:
    messages = pgbench.Messages()
    for line in (
        b"progress: 1700000001.5 s, 10.0 tps, lat 1.0 ms stddev 0.1, 0 failed\n",
        b"pgbench: error: client 3 script 0 aborted in command 4 query 0: server closed\n",
        b"progress: 1700000002.5 s, 10.0 tps, lat 1.0 ms stddev 0.1, 0 failed\n",
        b"pgbench: error: client 4 aborted while establishing connection\n",
        b"number of transactions actually processed: 17\n",
    ):
        messages.add(line)
    assert messages.aborted == [1700000001.5, 1700000002.5]
    assert messages.processed == 17
    assert "client 4 aborted" in messages.error
