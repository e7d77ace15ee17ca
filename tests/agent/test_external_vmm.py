"""VMMs that are other programs: their start, their placeholders and the reasons of their ends."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.agent.directories import Directories
from harness.agent.external_program import ShutdownMessages
from harness.agent.external_vmm import ExternalVmmConfig
from harness.agent.kvm_debugfs import KvmDebugfs
from harness.agent.process import is_process, process_id
from harness.errors import HarnessError, ProvisionError
from harness.hosts.local import LocalHost
from harness.hypervisors.agent_client import AgentClient
from harness.hypervisors.base import End
from harness.hypervisors.capabilities import SupportsMonitor
from harness.kvm.errors import END_REASONS
from tests.vmm.guests import Runner
from tests.waiting import wait_until


@pytest.fixture
def external_vmms(tmp_path: Path) -> Iterator[Runner]:
    """Starts any program in place of a VMM, under its own agent."""
    host = LocalHost("tests")
    agent = AgentClient(host)
    runner = Runner(agent, tmp_path)
    yield runner
    runner.close()
    agent.close()
    host.close()


def shell(script: str, **more: Any) -> dict[str, Any]:
    return {"argv": ["sh", "-c", script], **more}


def test_environment_files_and_directory(external_vmms: Runner) -> None:
    guest = external_vmms.start(
        "exec",
        "g",
        **shell(
            'cd "$HOME"; cat one; echo "$NAME"; echo {directory}; test -e /proc/self/fd/{memory} &&'
            " echo memory; exec cat",
            environment={"HOME": "{directory}", "NAME": "of the guest"},
            files={"one": "memory is {memory}\n"},
        ),
    )
    guest.wait_line("memory")
    assert guest.lines[1] == "of the guest"
    assert guest.lines[0].startswith("memory is ")
    assert guest.lines[0][len("memory is ") :].isdigit()
    directory = Path(guest.lines[2])
    assert directory.is_dir()
    assert directory.stat().st_mode & 0o777 == 0o700
    guest.machine.stop()
    assert guest.end().reason == "stopped"
    assert not directory.exists()


def test_killed_guest_leaves_no_directory(external_vmms: Runner) -> None:
    guest = external_vmms.start("exec", "g", **shell("echo {directory}; exec sleep 100"))
    assert wait_until(lambda: guest.lines)
    guest.machine._agent.request("kill", "g")
    assert guest.end().reason == "killed"
    assert wait_until(lambda: not Path(guest.lines[0]).exists())


def test_text_reaches_standard_input(external_vmms: Runner) -> None:
    guest = external_vmms.start("exec", "g", **shell('read line; echo "got $line"; exec sleep 100'))
    guest.machine._agent.request("type", "g", {"text": "hello\n"})
    guest.wait_line("got hello")


def test_text_that_the_console_does_not_take_is_refused(external_vmms: Runner) -> None:
    guest = external_vmms.start("exec", "g", **shell("exec sleep 100"))
    ask = guest.machine._agent.request
    with pytest.raises(HarnessError, match="takes 4096 at once"):
        ask("type", "g", {"text": "x" * 4097})
    for _ in range(16):  # the pipe has 64 KiB
        ask("type", "g", {"text": "x" * 4096})
    with pytest.raises(HarnessError, match="does not read its console input"):
        ask("type", "g", {"text": "x"})
    assert guest.machine.statistics()["cpu_ns"] >= 0


def test_every_reason_of_an_end_is_documented() -> None:
    assert set(re.findall(r'"([a-z-]+)"', End.__doc__ or "")) == set(END_REASONS)


@pytest.mark.parametrize("where", ["argv", "environment", "files"])
def test_agent_and_controller_find_the_same_monitor(external_vmms: Runner, where: str) -> None:
    arguments: dict[str, Any] = {
        "argv": ["sleep", "100"],
        "environment": {"MONITOR": "{monitor}"} if where == "environment" else {},
        "files": {"configuration": "{monitor}"} if where == "files" else {},
    }
    if where == "argv":
        arguments = shell("exec sleep 100 # {monitor}")
    guest = external_vmms.start("exec", "g", **arguments)
    assert isinstance(guest.machine, SupportsMonitor)
    guest.machine._agent.request("monitor", "g", {"text": "{}\n"})


def test_a_halted_guest_with_a_monitor_continues(external_vmms: Runner) -> None:
    guest = external_vmms.start(
        "exec", "g", **shell("echo 'reboot: System halted'; sleep 3; echo awake; cat # {monitor}")
    )
    guest.wait_line("awake")
    guest.machine.stop()
    assert guest.end().reason == "stopped"


def test_exit_statuses_have_reasons(external_vmms: Runner) -> None:
    reasons = {"0": "reset", "7": "power-off"}
    guest = external_vmms.start(
        "exec", "g", **shell("echo harness: init 1; exit 7", exit_reasons=reasons)
    )
    assert guest.end().reason == "power-off"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'harness: init 1'; echo '[    1.2] reboot: Power down'", "power-off"),
        ("echo 'harness: init 1'; echo 'reboot: Restarting system'", "reset"),
        ("echo 'harness: init 1'", "reset"),
        ("echo 'no Linux'", "power-off"),
    ],
    ids=["announced power-off", "announced restart", "silent", "no kernel"],
)
def test_console_distinguishes_reset_and_power_off(
    external_vmms: Runner, script: str, reason: str
) -> None:
    assert external_vmms.start("exec", "g", **shell(script)).end().reason == reason


@pytest.mark.parametrize("message", ["Power down", "System halted"])
def test_a_halted_guest_has_powered_off(external_vmms: Runner, message: str) -> None:
    """Some VMMs have no power-off: they run the halted guest for ever."""
    guest = external_vmms.start("exec", "g", **shell(f"echo 'reboot: {message}'; exec sleep 100"))
    assert guest.end().reason == "power-off"


def test_only_kernel_messages_announce_an_end() -> None:
    messages = ShutdownMessages()
    messages.read("harness: init 1")
    messages.read("a program says reboot: Restarting system")
    messages.read("[    3.000001][    T1] reboot: Power down")
    assert messages.correct("power-off") == ("power-off", "")
    assert messages.correct("debug-exit")[0] == "debug-exit"


@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        ({"argv": []}, "needs argv"),
        ({"files": {"a/b": ""}}, "is no file name"),
        ({"files": {"a": 1}}, "files"),
        ({"exit_reasons": {"x": "reset"}}, "no exit status"),
        ({"exit_reasons": {"256": "reset"}}, "no exit status"),
        ({"exit_reasons": {"\N{SUPERSCRIPT TWO}": "reset"}}, "no exit status"),
        ({"exit_reasons": {"0": "poweroff"}}, "no reason of an end"),
        ({"environment": {"A\0": "b"}}, "environment"),
        ({"argv": ["/nothing/there"]}, "No such file"),
    ],
)
def test_wrong_configurations_are_refused(
    external_vmms: Runner, wrong: dict[str, Any], cause: str
) -> None:
    with pytest.raises(ProvisionError, match=cause):
        external_vmms.start("exec", "g", **{"argv": ["true"], **wrong})


def test_placeholders_are_found_everywhere() -> None:
    assert ExternalVmmConfig(["x", "fd={tap}"]).contains("{tap}")
    assert ExternalVmmConfig(["x"], environment={"A": "{vhost}"}).contains("{vhost}")
    assert ExternalVmmConfig(["x"], files={"a": "{memory}"}).contains("{memory}")
    assert not ExternalVmmConfig(["x"]).contains("{memory}")


def test_directories_of_ended_supervisors_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first = Directories()
    running = Path(first.make("g"))
    ended = running.parents[1] / "999999999-1" / "g"
    ended.mkdir(parents=True)
    Directories().make("other")
    assert not ended.parent.exists()
    assert running.is_dir()
    first.remove("g")
    assert not running.exists()
    first.close()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def directories_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path / f"pytest-hypervisor-{os.geteuid()}"


def test_a_symbolic_link_as_the_parent_of_directories_is_refused(
    tmp_path: Path, directories_parent: Path
) -> None:
    foreign = tmp_path / "foreign"
    stale = foreign / "999999999-1"
    stale.mkdir(parents=True)
    directories_parent.symlink_to(foreign)
    directories = Directories()
    with pytest.raises(NotADirectoryError):
        directories.make("g")
    directories.remove("g")
    directories.close()
    assert stale.is_dir()


@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_a_writable_parent_of_directories_is_refused(directories_parent: Path, mode: int) -> None:
    stale = directories_parent / "999999999-1"
    stale.mkdir(parents=True)
    directories_parent.chmod(mode)
    with pytest.raises(PermissionError, match="other users can write"):
        Directories().make("g")
    assert stale.is_dir()


def test_only_names_of_ended_processes_are_removed(directories_parent: Path) -> None:
    digits = directories_parent / "999999999"
    digits.mkdir(parents=True)
    directories_parent.chmod(0o700)
    directories = Directories()
    directories.make("g")
    directories.close()
    assert digits.is_dir()


def test_a_process_id_names_one_process() -> None:
    own = process_id(os.getpid())
    assert is_process(own)
    assert not is_process(f"{os.getpid()}-1")
    assert is_process("no process id")
    assert is_process("999999999")
    assert is_process("999999999-")
    assert is_process("\N{SUPERSCRIPT TWO}-1")
    assert not is_process("999999999-1")


def test_counters_of_debugfs_are_summed_and_histograms_left_out(tmp_path: Path) -> None:
    for folder, exits in (("7-11", "5\n"), ("7-12", "2\n"), ("8-11", "100\n")):
        machine = tmp_path / folder
        (machine / "vcpu0").mkdir(parents=True)
        (machine / "exits").write_text(exits)
        (machine / "histogram").write_text("1 2 3\n")
    assert KvmDebugfs(7, str(tmp_path)).counters() == {"exits": 7}
    assert KvmDebugfs(9, str(tmp_path)).counters() == {}


def test_statistics_without_debugfs_have_no_exits(external_vmms: Runner) -> None:
    guest = external_vmms.start("exec", "g", argv=[sys.executable, "-c", "input()"])
    statistics = guest.machine.statistics()
    assert statistics["cpu_ns"] >= 0
    assert "exits" not in statistics
