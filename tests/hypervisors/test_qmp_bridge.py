"""A monitor that is bridge as text, against a peer of ours."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest

from harness.errors import HostError
from harness.hypervisors.qmp_bridge import QmpBridge

GREETING = '{"QMP": {"version": {}, "capabilities": []}}'


class Peer:
    """Answers each command with its name, but for one that it keeps to itself."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.bridge = QmpBridge(self.take)
        self.bridge.receive(GREETING)

    def take(self, text: str) -> None:
        request = json.loads(text)
        self.asked.append(request["execute"])
        if request["execute"] != "stop":
            answer = {"return": {"did": request["execute"]}, "id": request.get("id")}
            self.bridge.receive(json.dumps(answer))


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.bridge.close()
    made.bridge.close()


def test_there_and_back(peer: Peer) -> None:
    assert peer.bridge.monitor.execute("query-status") == {"did": "query-status"}
    assert peer.asked == ["qmp_capabilities", "query-status"]


def test_a_peer_that_does_not_answer(peer: Peer) -> None:
    with pytest.raises(HostError, match="does not answer stop"):
        peer.bridge.monitor.execute("stop", timeout=0.2)


def test_more_than_can_be_kept_ends_it(peer: Peer) -> None:
    """Who hears must not wait, whatever a peer says."""
    peer.bridge.monitor.execute("query-status")
    told = json.dumps({"event": "NOISE", "data": {"text": "x" * 4096}})
    done = threading.Event()

    def flood() -> None:
        for _ in range(100_000):
            peer.bridge.receive(told)
        done.set()

    threading.Thread(target=flood, daemon=True).start()
    assert done.wait(60)
    with pytest.raises(HostError, match="gone"):
        peer.bridge.monitor.execute("query-status", timeout=5)


def test_once_it_is_closed(peer: Peer) -> None:
    peer.bridge.monitor.execute("query-status")
    peer.bridge.close()
    with pytest.raises(HostError, match="gone"):
        peer.bridge.monitor.execute("query-status", timeout=5)
