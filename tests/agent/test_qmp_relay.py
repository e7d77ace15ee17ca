"""The QMP relay: lines become events, and the cause of a shutdown is noted."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from harness.agent.control import Channel
from harness.agent.qmp_relay import QmpRelay


class Relay:
    """A started relay between a VMM's socket and a supervisor's socket."""

    def __init__(self) -> None:
        guest_end, self.supervisor = socket.socketpair()
        self._channel = guest_end
        self.supervisor.settimeout(5)
        self.qmp = QmpRelay(Channel("g", guest_end))
        self.vmm = self.qmp.vmm_socket
        self.vmm.settimeout(5)
        self.qmp.start()

    def end(self) -> list[dict[str, Any]]:
        """End the VMM; returns all events."""
        self.vmm.close()
        self.qmp.finish()
        self._channel.close()
        output = b"".join(iter(lambda: self.supervisor.recv(4096), b""))
        return [json.loads(line) for line in output.splitlines()]


@pytest.fixture
def relay() -> Iterator[Relay]:
    relay = Relay()
    yield relay
    relay.end()
    relay.supervisor.close()


def test_lines_become_events_when_complete(relay: Relay) -> None:
    for piece in (b'{"QMP": {', b'}}\r\n{"return"', b": {}}\r\n"):
        relay.vmm.sendall(piece)
    events = relay.end()
    assert [(one["guest"], one["event"]) for one in events] == [("g", "monitor")] * 2
    assert [json.loads(one["text"]) for one in events] == [{"QMP": {}}, {"return": {}}]
    assert relay.qmp.shutdown == ""


def test_text_is_sent_unchanged(relay: Relay) -> None:
    assert relay.qmp.send('{"execute": "cont"}')
    assert relay.vmm.recv(4096) == b'{"execute": "cont"}'


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
def test_cause_of_the_shutdown_is_noted(relay: Relay, message: Any, reason: str) -> None:
    relay.vmm.sendall(json.dumps(message).encode() + b"\r\n")
    assert len(relay.end()) == 1
    assert relay.qmp.shutdown == reason


def test_invalid_json_ends_the_relay(relay: Relay) -> None:
    relay.vmm.sendall(b'{"event": "SHUTDOWN"\r\n{"return": {}}\r\n')
    assert relay.end() == []
    assert relay.qmp.shutdown == ""
