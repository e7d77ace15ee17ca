"""Pausing: vCPUs stop between two instructions and continue without a trace."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.hypervisors.agent_client import AgentClient
from harness.vmm.machine import Machine
from harness.vmm.run_control import KICK_SIGNAL
from tests.vmm.guests import Runner, in_process
from tests.vmm.payload import FOR_EVER, HELLO
from tests.waiting import TIMEOUT, wait_until

pytestmark = pytest.mark.usefixtures("kvm_device")

COUNTER = 0x20_0000
COUNT = f"1: incl {COUNTER:#x} ; jmp 1b"
ASK = "mov $0xd00, %dx\n1: in %dx, %eax ; mov %eax, %ebx ; out %eax, %dx ; jmp 1b"


def count(machine: Machine) -> int:
    return int.from_bytes(machine.memory.view(COUNTER, 4), "little")


class Echo:
    """Reads return 1, 2, 3...; every write must repeat the last read."""

    def __init__(self) -> None:
        self.reads = 0
        self.wrong: list[tuple[int, int]] = []

    def read(self, offset: int, size: int) -> int:
        self.reads += 1
        return self.reads

    def write(self, offset: int, size: int, value: int) -> None:
        if value != self.reads:
            self.wrong.append((value, self.reads))


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Machine]:
    """A machine that increments a counter in memory."""
    with in_process(COUNT, tmp_path) as machine:
        signal.signal(KICK_SIGNAL, lambda number, frame: None)
        machine.vcpus[0].start(lambda end: None)
        assert wait_until(lambda: count(machine))
        yield machine


def test_pause_stops_and_resume_continues_a_counter(running: Machine) -> None:
    for _ in range(20):
        running.pause()
        value, state = count(running), running.vcpus[0].registers()
        running.pause()  # idempotent
        assert (count(running), running.vcpus[0].registers()) == (value, state)
        running.resume()
        assert wait_until(lambda: count(running) != value)  # noqa: B023
    running.resume()
    assert not running.vcpus[0].run_control._parked


def test_pause_right_after_resume_is_effective(running: Machine) -> None:
    for _ in range(200):
        running.pause()
        running.resume()
        running.pause()
        value = count(running)
        assert count(running) == value
        running.resume()


def test_pause_completes_a_pending_access(tmp_path: Path) -> None:
    """The value that a device returned is in the register, whenever the pause happens."""
    echo = Echo()
    with in_process(ASK, tmp_path, ports=echo) as machine:
        signal.signal(KICK_SIGNAL, lambda number, frame: None)
        machine.vcpus[0].start(lambda end: None)
        for _ in range(100):
            machine.pause()
            registers = machine.vcpus[0].registers()
            assert registers["rax"] == echo.reads
            machine.resume()
        assert not echo.wrong


class SlowEcho(Echo):
    """Blocks reads until `released` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.released = threading.Event(), threading.Event()

    def read(self, offset: int, size: int) -> int:
        self.reached.set()
        assert self.released.wait(TIMEOUT)
        return super().read(offset, size)


def test_pause_timeout_leaves_the_vcpu_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.vmm.run_control._PAUSE_TIMEOUT", 0.05)
    slow = SlowEcho()
    with in_process(ASK, tmp_path, ports=slow) as machine:
        signal.signal(KICK_SIGNAL, lambda number, frame: None)
        machine.vcpus[0].start(lambda end: None)
        assert slow.reached.wait(TIMEOUT)
        with pytest.raises(TimeoutError, match="a device blocks it"):
            machine.pause()
        slow.released.set()
        assert wait_until(lambda: slow.reads > 1)
        assert not machine.vcpus[0].run_control.paused
        assert not slow.wrong


def test_paused_machine_can_stop(running: Machine) -> None:
    running.pause()
    thread = running.vcpus[0].run_control.thread
    running.vcpus[0].run_control.stop()
    assert isinstance(thread, threading.Thread)
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    running.pause()  # returns for a thread that has ended


def test_pause_before_the_vcpus_start(tmp_path: Path) -> None:
    with in_process(FOR_EVER, tmp_path) as machine:
        machine.pause()
        machine.resume()


def test_control_channel_pauses_and_resumes(run: Runner, supervisor: AgentClient) -> None:
    """A halted guest and an application processor that was not started can be paused."""
    source = HELLO + "1: in $0x60, %al ; jmp 1b"
    guest = run(source, vcpus=2)
    guest.wait_line("hi")
    ask = supervisor.request
    assert ask("pause", "guest") is True
    before = guest.machine.statistics()["user_exits"]
    assert guest.machine.statistics()["user_exits"] == before
    assert ask("resume", "guest") is True
    assert wait_until(lambda: guest.machine.statistics()["user_exits"] > before)
    assert ask("pause", "guest") is True
    guest.machine.stop()
    assert guest.end().reason == "stopped"
