"""The monitor client against a scripted monitor."""

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


class Script:
    """The other end: what it got, and what it says."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream

    def say(self, *lines: dict[str, Any]) -> None:
        self.stream.sendall(b"".join(json.dumps(line).encode() + b"\r\n" for line in lines))

    def answer(self, **said: Any) -> dict[str, Any]:
        """Answer the next request, which comes in one piece and with no line's end; the request."""
        request: dict[str, Any] = json.loads(self.stream.recv(4096))
        self.say({**said, "id": request["id"]} if "id" in request else said)
        return request

    def later(self, **said: Any) -> threading.Thread:
        thread = threading.Thread(target=self.answer, kwargs=said)
        thread.start()
        return thread


@pytest.fixture
def pair() -> Iterator[tuple[Monitor, Script]]:
    """Connected."""
    ours, theirs = socket.socketpair()
    monitor, script = Monitor(ours), Script(theirs)
    script.say(GREETING)
    assert script.answer(**{"return": {}})["execute"] == "qmp_capabilities"
    yield monitor, script
    monitor.close()
    monitor.close()
    theirs.close()


def test_events_are_skipped_and_names_get_hyphens(pair: tuple[Monitor, Script]) -> None:
    monitor, script = pair
    script.say({"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}})
    found: list[Any] = []
    asking = threading.Thread(
        target=lambda: found.append(
            monitor.execute("blockdev-add", node_name="x", read_only=True, timeout=5)
        )
    )
    asking.start()
    request = script.answer(**{"return": {"a": 1}})
    asking.join()
    assert found == [{"a": 1}]
    assert request["execute"] == "blockdev-add"
    assert request["arguments"] == {"node-name": "x", "read-only": True}


def test_refusal(pair: tuple[Monitor, Script]) -> None:
    monitor, script = pair
    answering = script.later(error={"class": "GenericError", "desc": "no such file"})
    with pytest.raises(HostError, match="refuses blockdev-add: no such file"):
        monitor.execute("blockdev-add")
    answering.join()


def test_late_and_gone(pair: tuple[Monitor, Script]) -> None:
    monitor, script = pair
    with pytest.raises(HostError, match="does not answer quit in time"):
        monitor.execute("quit", timeout=0.1)
    script.answer(**{"return": "late"})
    answering = script.later(**{"return": "mine"})
    assert monitor.execute("query-status") == "mine"
    answering.join()
    timer = threading.Timer(0.1, script.stream.shutdown, [socket.SHUT_RDWR])
    timer.start()
    with pytest.raises(HostError, match="gone at quit"):
        monitor.execute("quit", timeout=5)
    timer.join()
    with pytest.raises(HostError, match="gone at query-status"):
        monitor.execute("query-status", timeout=5)


def test_one_that_says_nothing_is_told() -> None:
    ours, theirs = socket.socketpair()
    monitor = Monitor(ours, greeting_timeout=0.1)
    with pytest.raises(HostError, match="does not answer the greeting in time"):
        monitor.execute("query-status")
    monitor.close()
    theirs.close()


def test_what_is_no_monitor_is_told() -> None:
    ours, theirs = socket.socketpair()
    monitor = Monitor(ours)
    theirs.sendall(b"SSH-2.0-nobody\r\n")
    with pytest.raises(HostError, match="gone at the greeting"):
        monitor.execute("query-status")
    monitor.close()
    theirs.close()
