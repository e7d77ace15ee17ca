"""The control protocol's lines and descriptors, and the arguments of "create"."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.agent.control import LINE_LIMIT, Channel, LineReader
from harness.kvm.errors import ConfigError
from harness.vmm.config import Config, DiskConfig
from tests.vmm.fuzz_inputs import FIELDS


@pytest.mark.parametrize("step", [1, 2, 3, 100])
def test_lines_are_joined_from_parts(step: int) -> None:
    stream = b'{"a": 1}\n\n{"b": 2}\nrest'
    reader = LineReader()
    lines = [
        line for at in range(0, len(stream), step) for line in reader.feed(stream[at : at + step])
    ]
    assert lines == [b'{"a": 1}', b"", b'{"b": 2}']
    assert list(reader.feed(b"\n")) == [b"rest"]


def test_line_of_the_maximum_length_is_read() -> None:
    reader = LineReader()
    assert list(reader.feed(b"x" * LINE_LIMIT)) == []
    assert list(reader.feed(b"\n")) == [b"x" * LINE_LIMIT]


def test_oversized_line_raises_once_and_is_dropped() -> None:
    reader = LineReader()
    lines = reader.feed(b"first\n" + b"x" * LINE_LIMIT + b"x")
    assert next(lines) == b"first"
    with pytest.raises(ValueError, match="longer than"):
        next(lines)
    for _ in range(5):
        assert list(reader.feed(b"x" * LINE_LIMIT)) == []
        assert len(reader._rest) == 0
    assert list(reader.feed(b"end of it\nnext\nre")) == [b"next"]
    assert list(reader.feed(b"st\n")) == [b"rest"]


def test_channel_adds_the_guest_and_ends_with_the_socket() -> None:
    supervisor_end, guest_end = socket.socketpair()
    channel = Channel("g", guest_end)
    channel.event("mark", stage="kernel")
    assert json.loads(supervisor_end.recv(1000)) == {
        "guest": "g",
        "event": "mark",
        "stage": "kernel",
    }
    supervisor_end.sendall(b'{"id": 1}\n{"id": 2}\n{"id"')
    supervisor_end.shutdown(socket.SHUT_WR)
    assert list(channel.requests()) == [{"id": 1}, {"id": 2}]
    supervisor_end.close()
    with pytest.raises(OSError, match=r"."):
        channel.event("mark")
    guest_end.close()


def test_files_arrive_as_descriptors_and_are_closed(tmp_path: Path) -> None:
    supervisor_end, guest_end = socket.socketpair()
    channel = Channel("g", guest_end)
    written: list[int] = []

    def save(files: dict[str, int], text: str = "") -> list[str]:
        for name, fd in files.items():
            os.write(fd, name.encode())
        written.extend(files.values())
        return list(files)

    with (tmp_path / "one").open("w") as one, (tmp_path / "two").open("w") as two:
        fds = [one.fileno(), two.fileno()]
        for op, arguments in (("save", {"text": "x"}), ("save", []), ("none", {})):
            request = {"id": 1, "op": op, "arguments": arguments, "files": {"a": "", "b": ""}}
            line = json.dumps(request).encode() + b"\n"
            socket.send_fds(supervisor_end, [line[:7]], fds)
            supervisor_end.sendall(line[7:])
        supervisor_end.shutdown(socket.SHUT_WR)
        before = psutil.Process().num_fds()
        assert channel.serve({"save": save}) is False
        assert psutil.Process().num_fds() == before
    answers = [json.loads(line) for line in supervisor_end.recv(65536).splitlines()]
    assert answers[0]["result"] == ["a", "b"]
    assert "error" in answers[1]
    assert "unknown operation" in answers[2]["error"]["cause"]
    assert ((tmp_path / "one").read_text(), (tmp_path / "two").read_text()) == ("a", "b")
    supervisor_end.close()
    guest_end.close()


def test_minimal_and_complete_configuration() -> None:
    assert Config.parse({"kernel": "k"}) == Config("k")
    disks = [{"path": "p", "serial": "s", "readonly": False, "direct": True}]
    parsed = Config.parse({**FIELDS, "disks": disks, "vcpus": 2, "vsock": True})
    assert parsed.disks == [DiskConfig("p", "s", readonly=False, direct=True)]
    assert (parsed.vcpus, parsed.memory, parsed.vsock) == (2, 16, True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kernel": 5},  # open() would take it for a descriptor
        {"kernel": None},
        {"kernel": "a\0b"},
        {"kernel": "\ud800"},
        {"initramfs": ["x"]},
        {"cmdline": {}},
        {"cmdline": "quiet\0"},
        {"vcpus": 0},
        {"vcpus": 1.5},
        {"vcpus": True},
        {"memory": 0},
        {"memory": -1},
        {"memory": "64"},
        {"memory": 1 << 21},
        {"vsock": 1},
        {"disks": None},
        {"disks": "ab"},
        {"disks": [None]},
        {"disks": [{}]},
        {"disks": [{"path": 3, "serial": "s"}]},
        {"disks": [{"path": "p", "serial": None}]},
        {"disks": [{"path": "p", "serial": "s", "readonly": "no"}]},
        {"disks": [{"path": "p", "serial": "s", "colour": "red"}]},
        {"unknown": 1},
    ],
    ids=str,
)
def test_fields_of_a_wrong_type_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as error:
        Config.parse({**FIELDS, **wrong})
    assert error.value.cause


@pytest.mark.parametrize("wrong", [None, [], "kernel", 3, {}])
def test_arguments_of_a_wrong_type_are_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError):
        Config.parse(wrong)


def test_path_that_is_not_utf8_is_accepted() -> None:
    assert Config.parse({"kernel": "/k\udcff"}).kernel == "/k\udcff"
