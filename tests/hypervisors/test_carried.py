"""A monitor that is carried as text, against a peer of ours."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest

from harness.errors import HostError
from harness.hypervisors.carried import Carried

GREETING = '{"QMP": {"version": {}, "capabilities": []}}'


class Peer:
    """Answers each command with its name, but for one that it keeps to itself."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.carried = Carried(self.take)
        self.carried.hear(GREETING)

    def take(self, text: str) -> None:
        request = json.loads(text)
        self.asked.append(request["execute"])
        if request["execute"] != "stop":
            answer = {"return": {"did": request["execute"]}, "id": request.get("id")}
            self.carried.hear(json.dumps(answer))


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.carried.close()
    made.carried.close()


def test_there_and_back(peer: Peer) -> None:
    assert peer.carried.monitor.execute("query-status") == {"did": "query-status"}
    assert peer.asked == ["qmp_capabilities", "query-status"]


def test_a_peer_that_does_not_answer(peer: Peer) -> None:
    with pytest.raises(HostError, match="does not answer stop"):
        peer.carried.monitor.execute("stop", timeout=0.2)


def test_more_than_can_be_kept_ends_it(peer: Peer) -> None:
    """Who hears must not wait, whatever a peer says."""
    peer.carried.monitor.execute("query-status")
    told = json.dumps({"event": "NOISE", "data": {"text": "x" * 4096}})
    done = threading.Event()

    def flood() -> None:
        for _ in range(100_000):
            peer.carried.hear(told)
        done.set()

    threading.Thread(target=flood, daemon=True).start()
    assert done.wait(60)
    with pytest.raises(HostError, match="gone"):
        peer.carried.monitor.execute("query-status", timeout=5)


def test_once_it_is_closed(peer: Peer) -> None:
    peer.carried.monitor.execute("query-status")
    peer.carried.close()
    with pytest.raises(HostError, match="gone"):
        peer.carried.monitor.execute("query-status", timeout=5)
