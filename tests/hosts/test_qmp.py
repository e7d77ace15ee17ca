"""The monitor client against a scripted monitor."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from harness.errors import HostError
from harness.hosts.qmp import QMP


@pytest.fixture
def pair() -> Iterator[tuple[QMP, socket.socket]]:
    ours, theirs = socket.socketpair()
    qmp = QMP(ours)
    yield qmp, theirs
    qmp.close()
    theirs.close()


def answer(monitor: socket.socket, *lines: dict[str, Any]) -> None:
    monitor.sendall(b"".join(json.dumps(line).encode() + b"\r\n" for line in lines))


def test_events_are_skipped_and_names_get_hyphens(pair: tuple[QMP, socket.socket]) -> None:
    qmp, monitor = pair
    answer(monitor, {"event": "STOP"}, {"return": {"a": 1}, "id": 1})
    assert qmp.execute("blockdev-add", node_name="x", read_only=True) == {"a": 1}
    request = json.loads(monitor.recv(4096))
    assert request == {
        "execute": "blockdev-add",
        "arguments": {"node-name": "x", "read-only": True},
        "id": 1,
    }


def test_handshake(pair: tuple[QMP, socket.socket]) -> None:
    qmp, monitor = pair
    answer(monitor, {"QMP": {}}, {"return": {}, "id": 1})
    qmp.handshake(5)
    assert json.loads(monitor.recv(4096))["execute"] == "qmp_capabilities"


def test_refusal(pair: tuple[QMP, socket.socket]) -> None:
    qmp, monitor = pair
    answer(monitor, {"error": {"class": "GenericError", "desc": "no such file"}, "id": 1})
    with pytest.raises(HostError, match="refuses blockdev-add: no such file"):
        qmp.execute("blockdev-add")


def test_gone_and_late(pair: tuple[QMP, socket.socket]) -> None:
    qmp, monitor = pair
    with pytest.raises(HostError, match="does not answer quit"):
        qmp.execute("quit", timeout=0.1)
    answer(monitor, {"return": "late", "id": 1}, {"return": "mine", "id": 2})
    assert qmp.execute("query-status") == "mine"
    timer = threading.Timer(0.1, monitor.shutdown, [socket.SHUT_RDWR])
    timer.start()
    with pytest.raises(HostError, match="gone"):
        qmp.execute("quit", timeout=5)
    timer.join()
