"""hv-job: answers, and jobs whose client goes away."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import gone, wait_until


@contextlib.contextmanager
def job_server(tools: Path, *command: str) -> Iterator[int]:
    """hv-job with this command. Yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port: int = unused.getsockname()[1]
    argv = [str(tools / "hv-job"), str(port), *command]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"listening\n"
            yield port
        finally:
            server.kill()


def test_answers_when_the_command_has_ended(tools: Path) -> None:
    with job_server(tools, "sh", "-c", "sleep 0.2; exit 7") as port:
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


def test_missing_command_is_an_answer(tools: Path) -> None:
    with (
        job_server(tools, "/nonexistent/program") as port,
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

    with job_server(tools, "sh", "-c", script) as port:
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
