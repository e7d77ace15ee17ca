"""Sessions in separate processes, with their own emulated host, leave nothing behind."""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from harness import scratch
from harness.results.store import load
from images.image import GuestImage
from tests.real.conftest import CACHE_HOME, MEMORY

pytestmark = pytest.mark.usefixtures("boots_emulated_machine")
MARK = "HARNESS_TEST_MARK"
INTERRUPTED = 2
PATIENCE = 60.0  # seconds
SESSION_TIMEOUT = 150.0  # seconds in which a session ends, also when its emulated host hangs
SOURCE = """
import pathlib, os

def test_measures(guest, ssh, record_sample):
    record_sample("exit.cpuid", 1.0, "ns", "lower")
    pathlib.Path("running").touch()
    ssh.run(["sleep", os.environ["SECONDS_MORE"]], timeout=60)
"""


class Session:
    """A pytest session in a new process group. An environment variable marks its processes."""

    def __init__(self, folder: Path, image: GuestImage, seconds: int) -> None:
        self.folder = folder
        self.temporary = folder / "tmp"
        self.runtime = folder / "run"
        self.temporary.mkdir()
        (folder / "test_it.py").write_text(SOURCE)
        self.mark = secrets.token_hex(8)
        more = {
            MARK: self.mark,
            "TMPDIR": str(self.temporary),
            "XDG_CACHE_HOME": str(CACHE_HOME),
            "XDG_RUNTIME_DIR": str(self.runtime),
            "SECONDS_MORE": str(seconds),
            "CI": "true",
        }
        # an explicit kernel is unpacked into a temporary directory
        options = [
            "--virt-host=emulated",
            f"--guest-kernel={image.bzimage}",
            f"--guest-memory={MEMORY}",
        ]
        self.output = folder / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pytest", "--hypervisor=kvm", *options],
                cwd=folder,
                env={**os.environ, **more},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                # a shell starts background jobs with SIGINT ignored
                preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
            )

    def wait_running(self) -> None:
        """Wait until the first test has its guest."""
        for _ in range(int(PATIENCE / 0.05)):
            if (self.folder / "running").exists():
                return
            assert self.process.poll() is None, self.output.read_text()
            time.sleep(0.05)
        pytest.fail(f"no guest within {PATIENCE:g} s: {self.output.read_text()}")

    def status(self) -> int:
        """Its exit status. A session that hangs prints the stacks of its threads."""
        try:
            return self.process.wait(SESSION_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # pytest's faulthandler prints the stacks
            self.process.wait(PATIENCE)
            pytest.fail(f"the session hangs:\n{self.output.read_text()}")

    def processes(self) -> dict[int, str]:
        """Pids and names of its running processes."""
        names = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if f"{MARK}={self.mark}".encode() in (folder / "environ").read_bytes():
                    names[int(folder.name)] = (folder / "comm").read_text().strip()
            except OSError:
                continue
        return names

    def lines(self) -> list[str]:
        return self.output.read_text().splitlines()

    def assert_nothing_left(self) -> None:
        for _ in range(100):  # processes need time to end after the death signal
            if not self.processes():
                break
            time.sleep(0.05)
        assert self.processes() == {}
        assert list(self.temporary.iterdir()) == []
        locks = list(self.runtime.rglob("*.lock"))
        assert locks
        for path in locks:
            with path.open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


Start = Callable[[int], Session]


@pytest.fixture
def start(tmp_path: Path, image: GuestImage) -> Iterator[Start]:
    """`start(seconds)`: a session whose first test has its guest and takes `seconds`."""
    sessions: list[Session] = []

    def go(seconds: int) -> Session:
        session = Session(tmp_path, image, seconds)
        sessions.append(session)
        session.wait_running()
        names = session.processes()
        assert names.pop(session.process.pid)
        assert "qemu-system-x86" in names.values(), "the search must find the emulated host"
        return session

    yield go
    for session in sessions:  # also after a failed test
        for pid in session.processes():
            os.kill(pid, signal.SIGKILL)
        session.process.wait()


def last_lines(session: Session) -> dict[str, Path]:
    pairs = [line.partition(": ") for line in session.lines()[-2:]]
    return {name: Path(path) for name, _, path in pairs}


def test_finished_session_leaves_nothing(start: Start) -> None:
    session = start(0)
    assert session.status() == 0, session.output.read_text()
    session.assert_nothing_left()
    assert set(last_lines(session)) == {"report", "samples"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_interrupted_session_leaves_nothing(start: Start, number: signal.Signals) -> None:
    session = start(60)
    os.killpg(session.process.pid, number)  # as the terminal does
    assert session.status() == INTERRUPTED, session.output.read_text()
    session.assert_nothing_left()
    paths = last_lines(session)
    assert paths["report"].read_text().lower().startswith("<!doctype html>")
    facts, frame = load(paths["samples"])
    assert list(frame[frame.test != ""].metric) == ["exit.cpuid"]
    assert facts["exit_status"] == INTERRUPTED


def test_killed_session_leaves_only_scratch_files(start: Start) -> None:
    session = start(60)
    session.process.kill()
    session.process.wait(PATIENCE)
    # the killed session cannot remove the directory; the next session does
    assert [path.parent for path in scratch.sweep(session.temporary)] == [session.temporary]
    session.assert_nothing_left()
