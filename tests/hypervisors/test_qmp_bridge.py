"""The QMP client over relayed text, against a simulated VMM."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest

from harness.errors import HostError
from harness.hypervisors.qmp_bridge import QmpBridge

GREETING = '{"QMP": {"version": {}, "capabilities": []}}'


class SimulatedVmm:
    """Answers each command with its name, except "stop"."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.bridge = QmpBridge(self.take)
        self.bridge.receive(GREETING)

    def take(self, text: str) -> None:
        request = json.loads(text)
        self.commands.append(request["execute"])
        if request["execute"] != "stop":
            answer = {"return": {"did": request["execute"]}, "id": request.get("id")}
            self.bridge.receive(json.dumps(answer))


@pytest.fixture
def vmm() -> Iterator[SimulatedVmm]:
    vmm = SimulatedVmm()
    yield vmm
    vmm.bridge.close()
    vmm.bridge.close()  # idempotent


def test_commands_and_answers_pass(vmm: SimulatedVmm) -> None:
    assert vmm.bridge.monitor.execute("query-status") == {"did": "query-status"}
    assert vmm.commands == ["qmp_capabilities", "query-status"]


def test_a_missing_answer_is_an_error(vmm: SimulatedVmm) -> None:
    with pytest.raises(HostError, match="does not answer stop"):
        vmm.bridge.monitor.execute("stop", timeout=0.2)


def test_a_full_queue_ends_the_monitor(vmm: SimulatedVmm) -> None:
    """receive() never waits, however much a VMM sends."""
    vmm.bridge.monitor.execute("query-status")
    line = json.dumps({"event": "NOISE", "data": {"text": "x" * 4096}})
    flooded = threading.Event()

    def flood() -> None:
        for _ in range(100_000):
            vmm.bridge.receive(line)
        flooded.set()

    threading.Thread(target=flood, daemon=True).start()
    assert flooded.wait(60)
    with pytest.raises(HostError, match="gone"):
        vmm.bridge.monitor.execute("query-status", timeout=5)


def test_a_closed_monitor_refuses_commands(vmm: SimulatedVmm) -> None:
    vmm.bridge.monitor.execute("query-status")
    vmm.bridge.close()
    with pytest.raises(HostError, match="gone"):
        vmm.bridge.monitor.execute("query-status", timeout=5)
