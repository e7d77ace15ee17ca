"""kill -9 at every stage of a guest's life: nothing stays, or whoever comes next removes it."""

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
from tests.agent.test_supervisor import SLEEP, Raw
from tests.vmm.payload import FOR_EVER, HELLO, kernel
from tests.waiting import gone, wait_until

STAGES = ["create", "boot", "ready", "stop"]


@pytest.fixture
def own(tmp_path: Path) -> Any:
    made = Raw(tmp_path)
    yield made
    made.close()


def children(raw: Raw) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(raw.process.pid).children(recursive=True)
    return []


def reach(raw: Raw, stage: str, name: str, op: str, arguments: dict[str, Any]) -> None:
    """Bring a guest to a stage; what it then does is not waited for."""
    request = {"id": 0, "op": op, "guest": name, "arguments": arguments}
    start = len(raw.messages)
    raw.send(json.dumps(request).encode() + b"\n")
    raw.event("mark", name)
    if stage == "create":
        assert wait_until(lambda: children(raw))
        return
    raw.wait(lambda message: message.get("guest") == name and "result" in message, start)
    if stage == "boot":
        return
    if op == "create":
        raw.event("console", name)
    if stage == "stop":
        raw.send(json.dumps({"id": 0, "op": "stop", "guest": name}).encode() + b"\n")


def guest(op: str, folder: Path) -> dict[str, Any]:
    if op == "exec":
        return SLEEP
    return {"kernel": kernel(HELLO + FOR_EVER, folder), "memory": 16, "vsock": False}


def left(raw: Raw) -> list[str]:
    """The cgroups that a supervisor has made and that are there."""
    mount = cgroup._mount()
    return [str(path) for path in Path(f"{mount}/pytest-hypervisor").glob(f"{raw.process.pid}-*")]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("op", ["create", "exec"])
def test_a_killed_supervisor(
    own: Raw, kvm_device: str, tmp_path: Path, op: str, stage: str
) -> None:
    reach(own, stage, "g", op, guest(op, tmp_path))
    pids = [child.pid for child in children(own)]
    own.process.kill()
    own.process.wait()
    assert all(map(gone, pids))
    following = Cgroups()
    assert left(own) == []
    following.close()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("op", ["create", "exec"])
def test_a_killed_guests_process(
    own: Raw, kvm_device: str, tmp_path: Path, op: str, stage: str
) -> None:
    reach(own, stage, "g", op, guest(op, tmp_path))
    for child in children(own)[:1]:
        os.kill(child.pid, signal.SIGKILL)
    end = own.event("end", "g")
    assert end["reason"] in ("killed", *(("stopped",) if stage == "stop" else ()))
    own.event("process_exit", "g")
    assert children(own) == []
    assert all(not Path(path, "g").exists() for path in left(own))
    assert "result" in own.ask("exec", "g", arguments=SLEEP)  # the name is free again


@pytest.mark.parametrize("stage", ["boot", "stop"])
def test_a_killed_peer(own: Raw, stage: str) -> None:
    reach(own, stage, "g", "exec", SLEEP)
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(own.process.pid).children():
            for peer in child.children():
                peer.kill()
    assert own.event("end", "g")["reason"] in ("killed", "stopped")
    own.event("process_exit", "g")
    assert children(own) == []


def test_what_a_peer_started_ends_with_a_killed_supervisor(own: Raw) -> None:
    """Where there are cgroups; only they hold what has left every process group."""
    if cgroup._mount() is None or not left(own):
        pytest.skip("no cgroup of version 2 can be made here")
    script = "setsid sleep 1000 & echo $! ; sleep 1000"
    assert "result" in own.ask("exec", "g", arguments={"argv": ["sh", "-c", script]})
    grandchild = int(own.event("console", "g")["text"])
    own.process.kill()
    own.process.wait()
    following = Cgroups()
    assert gone(grandchild)
    assert left(own) == []
    following.close()


def test_limits_are_had_or_refused(own: Raw) -> None:
    answer = own.ask("exec", "g", arguments=SLEEP, limits={"memory": 64})
    if "error" in answer:
        assert "no limit by memory.max" in answer["error"]["cause"]
        assert "run as root" in answer["error"]["hint"]
        assert own.event("end", "g")["reason"] == "refused"
    else:
        path = Path(answer["result"]["cgroup"])
        assert (path / "memory.max").read_text() == f"{64 << 20}\n"
        assert own.ask("stats", "g")["result"]["cgroup_memory"] > 0


def test_who_is_killed_for_memory_is_told_so(own: Raw) -> None:
    script = "x=$(head -c 200000000 /dev/zero | tr '\\0' x)"
    arguments = {"argv": ["sh", "-c", script]}
    if "error" in own.ask("exec", "g", arguments=arguments, limits={"memory": 64}):
        pytest.skip("the memory controller is not to be had here")
    end = own.event("end", "g")
    assert end["reason"] == "out-of-memory"
    own.event("process_exit", "g")
