"""Sessions that are killed at any moment, or that run at the same time, lose no sample."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.results import query, readable_files, recover, runs

KILLS = 100
PER_RUN = 40
# Each line on standard input starts a session in a forked process. It may recover the spools of
# earlier sessions, then writes runs until it is killed, and reports each written sample.
SESSIONS = """
import itertools, os, sys
from pathlib import Path
from harness.results import RunWriter, recover
from tests.results.synthetic import Synthetic, facts

store = Path(sys.argv[1])
samples = list(Synthetic("x", boots=1, batches=1).everything())[:PER_RUN]

def tell(text):
    os.write(1, f"{text}\\n".encode())

def session(first):
    import dataclasses
    if first == "recover":
        recover(store)
    while True:
        writer = RunWriter(store, facts())
        tell(f"run {writer.run}")
        for number, sample in enumerate(samples, 1):
            writer.add(dataclasses.replace(sample, run=writer.run, value=float(number)))
            tell(number)
        writer.close()
        tell("closed")

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        try:
            session(line.strip())
        except BaseException as error:
            tell(f"error {error!r}")
        os._exit(1)
    tell(f"child {child}")
    os.waitpid(child, 0)
    tell("dead")
""".replace("PER_RUN", str(PER_RUN))


class _Killer:
    """Sessions that are killed. taken: run -> number of reported samples. closed: reported runs."""

    def __init__(self, store: Path) -> None:
        self.taken: dict[str, int] = {}
        self.closed: set[str] = set()
        self._server = subprocess.Popen(
            [sys.executable, "-c", SESSIONS, str(store)],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def kill_one(self, first: str, after: float) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(f"{first}\n")
        self._server.stdin.flush()
        kind, _, child = self._server.stdout.readline().strip().partition(" ")
        early: list[str] = []
        while kind != "child":  # the session may be quicker to speak than its parent
            early.append(f"{kind} {child}".strip())
            kind, _, child = self._server.stdout.readline().strip().partition(" ")
        time.sleep(after)
        os.kill(int(child), signal.SIGKILL)
        run = ""
        for line in itertools.chain(early, map(str.strip, self._server.stdout)):
            word, _, rest = line.partition(" ")
            assert word != "error", rest
            if word == "dead":
                return
            if word == "run":
                run = rest
                self.taken[run] = 0
            elif word == "closed":
                self.closed.add(run)
            else:
                self.taken[run] = int(word)

    def end(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        assert self._server.wait(20) == 0


@pytest.mark.slow
def test_kill_at_any_moment_loses_no_sample(tmp_path: Path) -> None:
    chance = random.Random(20261126)  # noqa: S311 - no secret
    killer = _Killer(tmp_path)
    for _ in range(KILLS):
        killer.kill_one(chance.choice(["recover", "write"]), chance.uniform(0, 0.08))
        there = {path.stem for path in runs(tmp_path)}
        assert readable_files(runs(tmp_path))[1] == [], "all files are readable"
        assert killer.closed <= there
        assert set(killer.taken) <= there | {path.stem for path in tmp_path.glob("*.jsonl")}
    killer.end()
    for spool in tmp_path.glob("*.jsonl"):
        if not spool.stat().st_size:  # killed before its first report
            assert spool.stem not in killer.taken
            os.utime(spool, (0, 0))
    recover(tmp_path)
    assert all(path.suffix == ".parquet" for path in tmp_path.rglob("*") if path.is_file())
    counted = query(
        tmp_path,
        "SELECT run, count(*) AS n, list(value ORDER BY value) AS v FROM samples GROUP BY run",
    )
    by_name = dict(zip(counted["run"], map(list, counted["v"].tolist()), strict=True))
    for run, taken in killer.taken.items():
        stored = by_name.get(run, [])
        assert stored == [float(n) for n in range(1, len(stored) + 1)]
        assert taken <= len(stored) <= taken + 1, "one sample may be written and not reported"
        assert len(stored) == PER_RUN or run not in killer.closed
    interrupted = set(killer.taken) - killer.closed
    assert len(interrupted) > KILLS / 4, "enough kills must hit open runs"
    assert killer.closed


SESSION = """
import sys
from pathlib import Path
from harness.results import RunWriter, recover
from tests.results.synthetic import Synthetic, facts

store, rounds = Path(sys.argv[1]), int(sys.argv[2])
for number in range(rounds):
    writer = RunWriter(store, facts())
    recover(store)
    for sample in Synthetic(writer.run, boots=2).boot():
        writer.add(sample)
    recover(store)
    if number % 3:
        writer.close()
    else:
        writer._release()  # as the kernel does for a dead process
    print(writer.run)
"""


def test_concurrent_sessions_lose_no_sample(tmp_path: Path) -> None:
    sessions = [
        subprocess.Popen(
            [sys.executable, "-c", SESSION, str(tmp_path), "60"],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    written = [run for one in sessions for run in one.communicate(timeout=60)[0].split()]
    assert [one.returncode for one in sessions] == [0, 0]
    recover(tmp_path)
    assert len(written) == 120
    counted = query(tmp_path, "SELECT run, count(*) AS n FROM samples GROUP BY run")
    assert dict(zip(counted["run"], counted["n"], strict=True)) == dict.fromkeys(written, 8)
    assert all(path.suffix == ".parquet" for path in tmp_path.rglob("*") if path.is_file())
