"""SIGKILL at every stage of a guest's life: nothing remains, or the next supervisor removes it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.agent import cgroup
from harness.agent.cgroup import Cgroups
from tests.agent.agent_process import SLEEP, AgentProcess
from tests.vmm.payload import FOR_EVER, HELLO, kernel
from tests.waiting import gone, wait_until

STAGES = ["create", "boot", "ready", "stop"]


@pytest.fixture
def own_agent(tmp_path: Path) -> Any:
    supervisor = AgentProcess(tmp_path)
    yield supervisor
    supervisor.close()


def children(agent: AgentProcess) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(agent.process.pid).children(recursive=True)
    return []


def bring_to_stage(
    agent: AgentProcess, stage: str, name: str, op: str, arguments: dict[str, Any]
) -> None:
    """Bring a guest to a stage, without waiting for the stage's end."""
    request = {"id": 0, "op": op, "guest": name, "arguments": arguments}
    start = len(agent.messages)
    agent.send(json.dumps(request).encode() + b"\n")
    agent.event("mark", name)
    if stage == "create":
        assert wait_until(lambda: children(agent))
        return
    agent.wait(lambda message: message.get("guest") == name and "result" in message, start)
    if stage == "boot":
        return
    if op == "create":
        agent.event("console", name)
    if stage == "stop":
        agent.send(json.dumps({"id": 0, "op": "stop", "guest": name}).encode() + b"\n")


def arguments_of(op: str, folder: Path) -> dict[str, Any]:
    if op == "exec":
        return SLEEP
    return {"kernel": kernel(HELLO + FOR_EVER, folder), "memory": 16, "vsock": False}


def cgroup_folders(agent: AgentProcess) -> list[str]:
    """The existing cgroups of a supervisor."""
    mount = cgroup._mount_point()
    return [str(path) for path in Path(f"{mount}/pytest-hypervisor").glob(f"{agent.process.pid}-*")]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("op", ["create", "exec"])
def test_killed_supervisor_takes_its_guests_along(
    own_agent: AgentProcess, kvm_device: str, tmp_path: Path, op: str, stage: str
) -> None:
    bring_to_stage(own_agent, stage, "g", op, arguments_of(op, tmp_path))
    pids = [child.pid for child in children(own_agent)]
    own_agent.process.kill()
    own_agent.process.wait()
    assert all(map(gone, pids))
    next_supervisor = Cgroups()
    assert cgroup_folders(own_agent) == []
    next_supervisor.close()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("op", ["create", "exec"])
def test_killed_guest_process_leaves_nothing(
    own_agent: AgentProcess, kvm_device: str, tmp_path: Path, op: str, stage: str
) -> None:
    bring_to_stage(own_agent, stage, "g", op, arguments_of(op, tmp_path))
    for child in children(own_agent)[:1]:
        with contextlib.suppress(ProcessLookupError):  # a stopped guest may have ended already
            os.kill(child.pid, signal.SIGKILL)
    end = own_agent.event("end", "g")
    assert end["reason"] in ("killed", *(("stopped",) if stage == "stop" else ()))
    own_agent.event("process_exit", "g")
    assert children(own_agent) == []
    assert all(not Path(path, "g").exists() for path in cgroup_folders(own_agent))
    assert "result" in own_agent.ask("exec", "g", arguments=SLEEP)  # the name is free


@pytest.mark.parametrize("stage", ["boot", "stop"])
def test_killed_external_vmm_leaves_nothing(own_agent: AgentProcess, stage: str) -> None:
    bring_to_stage(own_agent, stage, "g", "exec", SLEEP)
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(own_agent.process.pid).children():
            for vmm in child.children():
                vmm.kill()
    assert own_agent.event("end", "g")["reason"] in ("killed", "stopped")
    own_agent.event("process_exit", "g")
    assert children(own_agent) == []


def test_children_of_an_external_vmm_end_with_the_supervisor(own_agent: AgentProcess) -> None:
    """Only a cgroup can end processes that have left their process group."""
    if cgroup._mount_point() is None or not cgroup_folders(own_agent):
        pytest.skip("this host permits no cgroup of version 2")
    script = "setsid sleep 1000 & echo $! ; sleep 1000"
    assert "result" in own_agent.ask("exec", "g", arguments={"argv": ["sh", "-c", script]})
    grandchild = int(own_agent.event("console", "g")["text"])
    own_agent.process.kill()
    own_agent.process.wait()
    next_supervisor = Cgroups()
    assert gone(grandchild)
    assert cgroup_folders(own_agent) == []
    next_supervisor.close()


def test_limits_are_set_or_refused(own_agent: AgentProcess) -> None:
    answer = own_agent.ask("exec", "g", arguments=SLEEP, limits={"memory": 64})
    if "error" in answer:
        assert "memory.max cannot be set" in answer["error"]["cause"]
        assert "run as root" in answer["error"]["hint"]
        assert own_agent.event("end", "g")["reason"] == "refused"
    else:
        path = Path(answer["result"]["cgroup"])
        assert (path / "memory.max").read_text() == f"{64 << 20}\n"
        assert own_agent.ask("stats", "g")["result"]["cgroup_memory"] > 0


def test_memory_kill_has_its_own_reason(own_agent: AgentProcess) -> None:
    script = "x=$(head -c 200000000 /dev/zero | tr '\\0' x)"
    arguments = {"argv": ["sh", "-c", script]}
    if "error" in own_agent.ask("exec", "g", arguments=arguments, limits={"memory": 64}):
        pytest.skip("this host has no memory controller")
    end = own_agent.event("end", "g")
    assert end["reason"] == "out-of-memory"
    own_agent.event("process_exit", "g")
