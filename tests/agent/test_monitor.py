"""A peer's monitor as it is relayed: what it says comes as events, and why it stopped is kept."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from harness.agent.control import Channel
from harness.agent.monitor import Monitor


class Relayed:
    """A started monitor, its peer, and who hears what it says."""

    def __init__(self) -> None:
        ours, self.heard = socket.socketpair()
        self._channel = ours
        self.heard.settimeout(5)
        self.monitor = Monitor(Channel("g", ours))
        self.peer = self.monitor.theirs
        self.peer.settimeout(5)
        self.monitor.start()

    def end(self) -> list[dict[str, Any]]:
        """The peer ends; all that was heard of it."""
        self.peer.close()
        self.monitor.finish()
        self._channel.close()
        said = b"".join(iter(lambda: self.heard.recv(4096), b""))
        return [json.loads(line) for line in said.splitlines()]


@pytest.fixture
def relayed() -> Iterator[Relayed]:
    made = Relayed()
    yield made
    made.end()
    made.heard.close()


def test_lines_are_events_however_they_come(relayed: Relayed) -> None:
    for piece in (b'{"QMP": {', b'}}\r\n{"return"', b": {}}\r\n"):
        relayed.peer.sendall(piece)
    heard = relayed.end()
    assert [(one["guest"], one["event"]) for one in heard] == [("g", "monitor")] * 2
    assert [json.loads(one["text"]) for one in heard] == [{"QMP": {}}, {"return": {}}]
    assert relayed.monitor.shutdown == ""


def test_what_is_sent_goes_as_it_is(relayed: Relayed) -> None:
    assert relayed.monitor.send('{"execute": "cont"}')
    assert relayed.peer.recv(4096) == b'{"execute": "cont"}'


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"event": "SHUTDOWN", "data": {"guest": True, "reason": "guest-reset"}}, "guest-reset"),
        ({"event": "SHUTDOWN"}, ""),
        ({"event": "SHUTDOWN", "data": ["x"]}, ""),
        ({"return": "SHUTDOWN"}, ""),
        (["SHUTDOWN"], ""),
    ],
)
def test_why_it_stopped(relayed: Relayed, message: Any, reason: str) -> None:
    relayed.peer.sendall(json.dumps(message).encode() + b"\r\n")
    assert len(relayed.end()) == 1
    assert relayed.monitor.shutdown == reason


def test_what_is_no_json_ends_the_relay(relayed: Relayed) -> None:
    relayed.peer.sendall(b'{"event": "SHUTDOWN"\r\n{"return": {}}\r\n')
    assert relayed.end() == []
    assert relayed.monitor.shutdown == ""
