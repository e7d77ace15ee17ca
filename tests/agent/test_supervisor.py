"""The supervisor's process by its protocol: requests, answers, events, ends, leaks."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.agent.control import LINE_LIMIT
from harness.agent.guest_processes import GuestProcesses, describe_status
from harness.agent.utilization import memory_available
from tests.agent.agent_process import SLEEP, AgentProcess
from tests.vmm.payload import FOR_EVER, HELLO, POWER_OFF, kernel
from tests.waiting import TIMEOUT, gone, wait_until

WRITE_MEMORY = "echo x > /proc/self/fd/{memory}"


# malformed requests


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"no json",
        b"[]",
        b"5",
        b"null",
        b'"text"',
        b"{",
        b'{"guest": []}',
        b'{"op": "create", "guest": 5}',
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b"1" * 10_000,
        b"x" * (LINE_LIMIT + 1),
        b"y" * (3 * LINE_LIMIT),
    ],
    ids=lambda line: f"{line[:12]!r}",
)
def test_malformed_lines_give_an_error(agent: AgentProcess, line: bytes) -> None:
    start = len(agent.messages)
    agent.send(line + b"\n")
    answer = agent.wait(lambda message: "error" in message, start)
    assert "malformed" in answer["error"]["cause"]
    assert agent.alive()


@pytest.mark.parametrize("op", ["dance", None, 5, [], {}])
def test_unknown_operations_give_an_error(agent: AgentProcess, op: Any) -> None:
    assert "no guest ''" in agent.ask(op)["error"]["cause"]
    assert "no guest 'nobody'" in agent.ask(op, "nobody")["error"]["cause"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", "a\nb", "\ud800"])
def test_names_unusable_for_a_cgroup_are_refused(agent: AgentProcess, name: str) -> None:
    assert "not usable" in agent.ask("exec", name, arguments=SLEEP)["error"]["cause"]


def test_long_name_gives_a_guest_without_a_cgroup(agent: AgentProcess) -> None:
    name = "x" * 5000
    assert agent.ask("exec", name, arguments=SLEEP)["result"]["cgroup"] is None
    assert agent.ask("stop", name)["result"]
    agent.event("process_exit", name)


def test_name_of_a_running_guest_is_refused(agent: AgentProcess) -> None:
    assert "result" in agent.ask("exec", "twice", arguments=SLEEP)
    assert "taken" in agent.ask("exec", "twice", arguments=SLEEP)["error"]["cause"]
    assert agent.ask("stop", "twice")["result"]
    agent.event("process_exit", "twice")


@pytest.mark.parametrize(
    "arguments",
    [None, [], {}, {"argv": []}, {"argv": "ls"}, {"argv": ["/absent"]}, {"argv": [5]}],
    ids=str,
)
@pytest.mark.parametrize("op", ["create", "exec"])
def test_refused_guest_has_an_error_and_an_end(
    agent: AgentProcess, op: str, arguments: Any
) -> None:
    name = f"{op} {arguments}".replace("/", "|")
    error = agent.ask(op, name, arguments=arguments)["error"]
    assert error["cause"]
    assert "hint" in error
    end = agent.event("end", name)
    assert end["reason"] in ("refused", "vmm-error")
    agent.event("process_exit", name)
    assert "no guest" in agent.ask("stats", name)["error"]["cause"]


def test_guest_survives_malformed_requests(
    agent: AgentProcess, kvm_device: str, tmp_path: Path
) -> None:
    config = {"kernel": kernel(HELLO + FOR_EVER, tmp_path), "memory": 16, "vsock": False}
    assert "result" in agent.ask("create", "tough", arguments=config)
    requests: list[tuple[Any, Any]] = [
        ("dance", {}),
        ("x" * (LINE_LIMIT // 2), {}),
        ([], {}),
        ({"a": 1}, {}),
        (None, None),
        ("type", {}),
        ("type", {"text": 5}),
        ("type", {"text": "\ud800"}),
        ("type", {"text": "x", "more": 1}),
        ("type", None),
        ("type", [1]),
        ("stats", {"x": 1}),
        ("stats", "x"),
    ]
    for op, arguments in requests:
        answer = agent.ask(op, "tough", arguments=arguments)
        assert answer["error"]["cause"], op
    assert agent.ask("type", "tough", arguments={"text": "hello"})["result"]
    assert agent.ask("stats", "tough")["result"]["cpu_ns"] > 0
    # the answer repeats an id that makes it too long; it is dropped
    agent.send(b'{"id": "%s", "op": "stats", "guest": "tough"}\n' % (b"\\u0001" * 150_000))
    assert agent.ask("stop", "tough")["result"]
    assert agent.event("end", "tough")["reason"] == "stopped"
    agent.event("process_exit", "tough")


def test_files_of_a_request_are_created_exclusively(agent: AgentProcess, tmp_path: Path) -> None:
    agent.ask("exec", "writer", arguments=SLEEP)
    before = resources(agent.process.pid)
    for files, cause in (
        ({"a": str(tmp_path / "new")}, "unexpected keyword argument 'files'"),  # of "stats"
        ({"a": str(tmp_path / "new")}, "new: File exists"),
        ({"a": str(tmp_path / "more"), "b": "/absent/x"}, "/absent/x: No such file"),
    ):
        assert cause in agent.ask("stats", "writer", files=files)["error"]["cause"]
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600
    assert released(agent.process.pid, before)
    agent.ask("stop", "writer")
    agent.event("process_exit", "writer")


# ends


def test_stop_is_answered_before_the_end(
    agent: AgentProcess, kvm_device: str, tmp_path: Path
) -> None:
    config = {"kernel": kernel(FOR_EVER, tmp_path), "memory": 16, "vsock": False}
    for number in range(10):
        name = f"stopped {number}"
        agent.ask("create", name, arguments=config)
        start = len(agent.messages)
        assert agent.ask("stop", name)["result"]
        agent.event("process_exit", name)
        messages = [one for one in agent.messages[start:] if one.get("guest") == name]
        kinds = [message.get("event") for message in messages]
        order = [None, "end", "process_exit"]
        assert [kind for kind in kinds if kind in order] == order


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGUSR2, 40, 63])
def test_end_names_the_signal_that_killed_a_guest(agent: AgentProcess, number: int) -> None:
    name = f"killed {int(number)}"
    agent.ask("exec", name, arguments=SLEEP)
    facts = agent.ask("stats", name)
    assert "result" in facts
    (child,) = psutil.Process(agent.process.pid).children()
    program = child.children()[0].pid
    os.kill(child.pid, number)
    end = agent.event("end", name)
    assert end["reason"] == "killed"
    assert f"signal {int(number)} " in end["detail"]
    agent.event("process_exit", name)
    assert gone(program)
    assert agent.alive()


def test_every_exit_status_has_a_description() -> None:
    for number in range(1, 65):
        assert describe_status(number)[0] == "killed"
    assert describe_status(3 << 8) == ("vmm-error", "the VMM process ended with status 3")


def test_kill_ends_a_hanging_guest(agent: AgentProcess) -> None:
    agent.ask("exec", "frozen", arguments=SLEEP)
    (child,) = psutil.Process(agent.process.pid).children()
    os.kill(child.pid, signal.SIGSTOP)
    assert agent.ask("kill", "frozen")["result"]
    assert agent.event("end", "frozen")["reason"] == "killed"
    agent.event("process_exit", "frozen")


def test_hanging_guest_does_not_delay_others(agent: AgentProcess) -> None:
    agent.ask("exec", "hung", arguments=SLEEP)
    (child,) = psutil.Process(agent.process.pid).children()
    agent.ask("exec", "well", arguments=SLEEP)
    os.kill(child.pid, signal.SIGSTOP)
    text = "x" * 100_000
    for _ in range(10):
        request = {"op": "type", "guest": "hung", "arguments": {"text": text}}
        agent.send(json.dumps(request).encode() + b"\n")
    assert "result" in agent.ask("stats", "well")
    assert agent.event("end", "hung")["reason"] == "killed"
    agent.event("process_exit", "hung")
    agent.ask("stop", "well")
    agent.event("process_exit", "well")


def start_two_guests(own_agent: AgentProcess) -> list[int]:
    """Start two guests; returns the ids of all processes below the supervisor."""
    for name in ("a", "b"):
        assert "result" in own_agent.ask("exec", name, arguments=SLEEP)
    below = psutil.Process(own_agent.process.pid).children(recursive=True)
    assert len(below) == 4
    return [process.pid for process in below]


def test_end_of_input_ends_everything(own_agent: AgentProcess) -> None:
    pids = start_two_guests(own_agent)
    assert own_agent.close() == 0
    assert all(map(gone, pids))
    assert own_agent.errors.read_text() == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_end_everything_cleanly(own_agent: AgentProcess, number: signal.Signals) -> None:
    pids = start_two_guests(own_agent)
    for _ in range(5):  # further signals must not interrupt the clean-up
        os.kill(own_agent.process.pid, number)
    assert own_agent.process.wait(TIMEOUT) == 0
    assert all(map(gone, pids))
    assert own_agent.errors.read_text() == ""


def test_guests_end_with_a_killed_supervisor(own_agent: AgentProcess) -> None:
    pids = start_two_guests(own_agent)
    own_agent.process.kill()
    own_agent.process.wait(TIMEOUT)
    assert all(map(gone, pids))


def test_closed_output_ends_the_supervisor(own_agent: AgentProcess) -> None:
    pids = start_two_guests(own_agent)
    assert own_agent.process.stdout is not None
    os.kill(own_agent.process.pid, signal.SIGSTOP)
    reader, writer = os.pipe()
    os.dup2(reader, own_agent.process.stdout.fileno())  # now the supervisor's pipe has no reader
    os.close(reader)
    os.close(writer)
    os.kill(own_agent.process.pid, signal.SIGCONT)
    assert all(map(gone, [*pids, own_agent.process.pid]))


def test_child_ends_if_its_parent_has_already_ended(tmp_path: Path) -> None:
    """PR_SET_PDEATHSIG has no effect after the parent's end."""
    marker = tmp_path / "marker"
    between = os.fork()
    if between == 0:
        parent = os.getpid()
        if os.fork() == 0:
            while os.getppid() == parent:
                time.sleep(0.005)
            guests = GuestProcesses.__new__(GuestProcesses)
            with contextlib.suppress(BaseException):
                guests._become_child(parent, None)  # type: ignore[arg-type]
            marker.write_text("the child runs")
            os._exit(0)
        os._exit(0)
    os.waitpid(between, 0)
    time.sleep(0.2)
    assert not marker.exists()


# leaks


def resources(pid: int) -> tuple[int, int, int]:
    process = psutil.Process(pid)
    return process.num_fds(), process.num_threads(), len(process.children(recursive=True))


def released(pid: int, before: tuple[int, int, int]) -> bool:
    """Whether a supervisor comes to hold no more than before; a report holds files for a moment."""
    return wait_until(
        lambda: all(now <= then for now, then in zip(resources(pid), before, strict=True))
    )


@pytest.mark.slow
def test_two_hundred_guests_leave_nothing(
    agent: AgentProcess, kvm_device: str, tmp_path: Path
) -> None:
    config = {"kernel": kernel(HELLO + POWER_OFF + FOR_EVER, tmp_path), "memory": 16}
    config["vsock"] = False
    before = resources(agent.process.pid)
    for number in range(200):
        name = f"cycle {number}"
        assert "result" in agent.ask("create", name, arguments=config)
        assert agent.event("end", name)["reason"] == "power-off"
        agent.event("process_exit", name)
    assert released(agent.process.pid, before)


def test_refused_guests_leave_nothing(agent: AgentProcess) -> None:
    before = resources(agent.process.pid)
    for number in range(20):
        agent.ask("capabilities")
        name = f"refused {number}"
        agent.ask("create", name, arguments={"kernel": "/absent"})
        agent.event("process_exit", name)
    assert released(agent.process.pid, before)


@pytest.mark.parametrize("quarantine", [False, True])
def test_guest_without_free_descriptors_is_refused(
    own_agent: AgentProcess, quarantine: bool
) -> None:
    agent = own_agent
    if quarantine:
        agent.ask("quarantine_memory")
        agent.ask("exec", "ended", arguments={"argv": ["sh", "-c", WRITE_MEMORY]})
        agent.event("process_exit", "ended")
    agent.ask("connectivity")  # it keeps descriptors open
    agent.ask("exec", "before", arguments=SLEEP)
    soft, hard = resource.prlimit(agent.process.pid, resource.RLIMIT_NOFILE)
    agent.wait(lambda message: message.get("event") == "utilization", len(agent.messages))
    before = resources(agent.process.pid)  # a report's files are closed now
    resource.prlimit(agent.process.pid, resource.RLIMIT_NOFILE, (before[0], hard))
    error = agent.ask("exec", "one too many", arguments=SLEEP)["error"]
    assert "no process" in error["cause"]
    assert "ulimit" in error["hint"]
    agent.event("process_exit", "one too many")
    assert "result" in agent.ask("connectivity")
    time.sleep(1.5)  # a report of utilization falls into this time
    assert "result" in agent.ask("stats", "before")
    resource.prlimit(agent.process.pid, resource.RLIMIT_NOFILE, (soft, hard))
    assert released(agent.process.pid, before)
    assert "result" in agent.ask("stats", "before")
    assert "result" in agent.ask("exec", "one too many", arguments=SLEEP)
    for name in ("before", "one too many"):
        agent.ask("stop", name)
        agent.event("process_exit", name)


@pytest.mark.skipif(
    memory_available() < 3072, reason="needs more memory than the quarantine's reserve"
)
def test_memory_of_ended_guests_is_quarantined_on_request(own_agent: AgentProcess) -> None:
    def quarantined() -> int:
        folder = Path(f"/proc/{own_agent.process.pid}/fd")
        return sum("memfd:guest" in str(link.readlink()) for link in folder.iterdir())

    def run(name: str, script: str) -> None:
        own_agent.ask("exec", name, arguments={"argv": ["sh", "-c", script]})
        own_agent.event("process_exit", name)

    run("before", WRITE_MEMORY)
    assert quarantined() == 0
    assert own_agent.ask("quarantine_memory")["result"] is True
    run("one", WRITE_MEMORY)
    run("nothing", "true")
    run("two", WRITE_MEMORY)
    assert quarantined() == 2
    # other guests' processes do not have these descriptors
    start = len(own_agent.messages)
    values = own_agent.wait(lambda message: message.get("event") == "utilization", start)["values"]
    assert 0 < values["memory.quarantined"] < 1
    run("list", "ls -l /proc/$PPID/fd ; echo listed")
    messages = [message for message in own_agent.messages if message.get("guest") == "list"]
    text = "".join(one["text"] for one in messages if one.get("event") == "console")
    assert "listed" in text
    assert text.count("memfd:guest") <= 1  # its own, which its process may not have closed yet


def test_utilization_is_reported_regularly(agent: AgentProcess) -> None:
    report = agent.wait(lambda message: message.get("event") == "utilization")
    parts = [value for name, value in report["values"].items() if name.startswith("cpu.")]
    assert sum(parts) == pytest.approx(100)
    assert report["values"]["memory.quarantined"] == 0
    assert 0 < report["values"]["memory.used"] < report["values"]["memory.total"]
    if os.access("/proc/pressure/cpu", os.R_OK):
        assert 0 <= report["values"]["pressure.cpu"] <= 101
    assert report["values"]["disk.requests"] >= 0
