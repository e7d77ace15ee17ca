"""hv-load and hv-job on this machine, servers for them, and the log of a load."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from images.build import compile_tool
from images.recipe import tool_sources
from suites.consolidation.requests import read_hv_load

Handler = Callable[[socket.socket], None]


def compile_load_tools(folder: Path) -> Path:
    """Compile hv-load and hv-job into a folder, and make it readable for the user nobody."""
    folder.parent.chmod(0o755)
    for name in ("hv-load", "hv-job"):
        data = compile_tool(tool_sources("workload")[name], folder / "scratch")
        (folder / name).write_bytes(data)
        (folder / name).chmod(0o755)
    return folder


@contextlib.contextmanager
def serving(handler: Handler) -> Iterator[int]:
    """Call `handler` in a thread for each connection to the port that this yields."""
    connections: list[socket.socket] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connections.append(connection)
                threading.Thread(target=handle, args=(connection,), daemon=True).start()

    def handle(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            handler(connection)

    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def load(
    tools: Path,
    targets: str,
    *,
    seed: int = 1,
    ramp: float = 0,
    seconds: float = 1,
    drain: float = 1,
    cpus: Sequence[int] = (),
) -> pd.DataFrame:
    """The requests of a load; `started` and `cpu_share` are in its attrs."""
    numbers = map(str, (seed, ramp, seconds, drain, *cpus))
    done = subprocess.run(
        [tools / "hv-load", *numbers], input=targets.encode(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    log = read_hv_load(done.stdout, done.stderr)
    log.requests.attrs.update(started=log.started, cpu_share=log.cpu_share)
    return log.requests


def answer(reply: bytes) -> Handler:
    """A handler that sends `reply` for each line or packet of a request."""

    def handler(connection: socket.socket) -> None:
        while connection.recv(4096):
            connection.sendall(reply)

    return handler


HTTP_OK = b"HTTP/1.1 200 OK\r\nServer: t\r\nContent-Length: 5\r\n\r\nhello"
