"""The QMP client against a scripted monitor."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from harness.errors import HostError
from harness.hosts.qmp import Monitor

GREETING: dict[str, Any] = {"QMP": {"version": {}, "capabilities": []}}


class FakeMonitor:
    """The monitor's end of the socket."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream

    def send(self, *lines: dict[str, Any]) -> None:
        self.stream.sendall(b"".join(json.dumps(line).encode() + b"\r\n" for line in lines))

    def answer(self, **answer: Any) -> dict[str, Any]:
        """Answer the next request and return it. It comes in one piece and without a newline."""
        request: dict[str, Any] = json.loads(self.stream.recv(4096))
        self.send({**answer, "id": request["id"]} if "id" in request else answer)
        return request

    def answer_later(self, **answer: Any) -> threading.Thread:
        thread = threading.Thread(target=self.answer, kwargs=answer)
        thread.start()
        return thread


@pytest.fixture
def pair() -> Iterator[tuple[Monitor, FakeMonitor]]:
    """A client and its monitor, after the greeting."""
    our_end, peer_end = socket.socketpair()
    monitor, script = Monitor(our_end), FakeMonitor(peer_end)
    script.send(GREETING)
    assert script.answer(**{"return": {}})["execute"] == "qmp_capabilities"
    yield monitor, script
    monitor.close()
    monitor.close()
    peer_end.close()


def test_execute_skips_events_and_hyphenates_names(pair: tuple[Monitor, FakeMonitor]) -> None:
    monitor, script = pair
    script.send({"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}})
    results: list[Any] = []
    caller = threading.Thread(
        target=lambda: results.append(
            monitor.execute("blockdev-add", node_name="x", read_only=True, timeout=5)
        )
    )
    caller.start()
    request = script.answer(**{"return": {"a": 1}})
    caller.join()
    assert results == [{"a": 1}]
    assert request["execute"] == "blockdev-add"
    assert request["arguments"] == {"node-name": "x", "read-only": True}


def test_refused_command_is_an_error(pair: tuple[Monitor, FakeMonitor]) -> None:
    monitor, script = pair
    answering = script.answer_later(error={"class": "GenericError", "desc": "no such file"})
    with pytest.raises(HostError, match="refuses blockdev-add: no such file"):
        monitor.execute("blockdev-add")
    answering.join()


def test_late_answer_and_lost_monitor_are_errors(pair: tuple[Monitor, FakeMonitor]) -> None:
    monitor, script = pair
    with pytest.raises(HostError, match="does not answer quit in time"):
        monitor.execute("quit", timeout=0.1)
    script.answer(**{"return": "late"})
    answering = script.answer_later(**{"return": "mine"})
    assert monitor.execute("query-status") == "mine"
    answering.join()
    timer = threading.Timer(0.1, script.stream.shutdown, [socket.SHUT_RDWR])
    timer.start()
    with pytest.raises(HostError, match="gone at quit"):
        monitor.execute("quit", timeout=5)
    timer.join()
    with pytest.raises(HostError, match="gone at query-status"):
        monitor.execute("query-status", timeout=5)


def test_missing_greeting_is_an_error() -> None:
    our_end, peer_end = socket.socketpair()
    monitor = Monitor(our_end, greeting_timeout=0.1)
    with pytest.raises(HostError, match="does not answer the greeting in time"):
        monitor.execute("query-status")
    monitor.close()
    peer_end.close()


def test_server_that_is_not_a_monitor_is_an_error() -> None:
    our_end, peer_end = socket.socketpair()
    monitor = Monitor(our_end)
    peer_end.sendall(b"SSH-2.0-server\r\n")
    with pytest.raises(HostError, match="gone at the greeting"):
        monitor.execute("query-status")
    monitor.close()
    peer_end.close()
