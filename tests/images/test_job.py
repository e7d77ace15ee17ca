"""hv-job: answers, and jobs whose client goes away."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import gone, wait_until

COUNT = "count"


def count(folder: Path) -> int:
    """The number of answers."""
    return int.from_bytes((folder / COUNT).read_bytes(), sys.byteorder)


@contextlib.contextmanager
def job_server(tools: Path, folder: Path, *command: str) -> Iterator[int]:
    """hv-job with this command, which counts in a file of the folder. Yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port: int = unused.getsockname()[1]
    argv = [str(tools / "hv-job"), str(port), str(folder / COUNT), *command]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"listening\n"
            yield port
        finally:
            server.kill()


def test_answers_when_the_command_has_ended(tools: Path, tmp_path: Path) -> None:
    with job_server(tools, tmp_path, "sh", "-c", "sleep 0.2; exit 7") as port:
        with socket.create_connection(("127.0.0.1", port)) as client:
            start = time.monotonic()
            client.sendall(b"\n")
            assert client.recv(16) == b"7\n"
            assert time.monotonic() - start >= 0.2
            # a reset connection ends its process only
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"\n\n")
            answers = b""
            while len(answers) < 4:
                answers += client.recv(16)
            assert answers == b"7\n7\n"
        assert wait_until(lambda: count(tmp_path) == 3)


def test_without_a_command_it_echoes_and_counts(tools: Path, tmp_path: Path) -> None:
    (tmp_path / COUNT).write_bytes(b"of an earlier server")
    with job_server(tools, tmp_path) as port, contextlib.ExitStack() as stack:
        assert count(tmp_path) == 0
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(2)
        ]
        for _ in range(100):
            for client, byte in zip(clients, (b"e", b"\0"), strict=True):
                client.sendall(byte)
                assert client.recv(16) == byte
        assert wait_until(lambda: count(tmp_path) == 200)


def test_byte_that_asks_for_no_job_ends_the_connection(tools: Path, tmp_path: Path) -> None:
    with job_server(tools, tmp_path, "true") as port:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"e")
            assert client.recv(16) == b""
        assert count(tmp_path) == 0


@pytest.mark.parametrize("arguments", [[], ["7001"], ["0", "count"], ["65536", "count"]])
def test_bad_usage_is_named(tools: Path, arguments: list[str]) -> None:
    done = subprocess.run([tools / "hv-job", *arguments], capture_output=True, check=False)
    assert done.returncode == 2
    assert b"usage: hv-job PORT COUNT" in done.stderr


def test_count_that_cannot_be_written_is_an_error(tools: Path, tmp_path: Path) -> None:
    argv = [str(tools / "hv-job"), "7001", str(tmp_path / "none" / "count")]
    done = subprocess.run(argv, capture_output=True, check=False)
    assert done.returncode == 1
    assert b"none/count: No such file or directory" in done.stderr


def test_missing_command_is_an_answer(tools: Path, tmp_path: Path) -> None:
    with (
        job_server(tools, tmp_path, "/nonexistent/program") as port,
        socket.create_connection(("127.0.0.1", port)) as client,
    ):
        for _ in range(2):
            client.sendall(b"\n")
            assert client.recv(16) == b"127\n"


@pytest.mark.parametrize("reset", [False, True])
def test_job_ends_with_its_connection(tools: Path, tmp_path: Path, reset: bool) -> None:
    """With all processes of its group. The jobs of other connections go on."""
    script = f"echo $$ >>{tmp_path}/pids; sleep 60 & echo $! >>{tmp_path}/pids; wait"
    pids = tmp_path / "pids"

    def running() -> list[int]:
        return [int(line) for line in pids.read_text().split()] if pids.exists() else []

    with job_server(tools, tmp_path, "sh", "-c", script) as port:
        with socket.create_connection(("127.0.0.1", port)) as other:
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(b"\n")
                assert wait_until(lambda: len(running()) == 2)
                other.sendall(b"\n")
                assert wait_until(lambda: len(running()) == 4)
                if reset:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            assert all(gone(pid) for pid in running()[:2])
            assert not any(gone(pid, timeout=0.2) for pid in running()[2:])
        assert all(gone(pid) for pid in running()[2:])
