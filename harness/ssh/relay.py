"""A guest's port through a process on its host: one exec channel a connection of a host that is
reached by SSH, or a child in the guests' network of this one."""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import HostError, SSHError
from harness.ssh.process import Stream

if TYPE_CHECKING:
    from harness.ssh.session import SSHSession

AF_INET, AF_VSOCK = int(socket.AF_INET), int(socket.AF_VSOCK)

# Runs on the host with python3 >= 3.9 alone; ends when either side ends. It answers one line, the
# errno or 0, then only carries bytes. _socket and _thread, as every import costs where the CPU is
# software: 0.12 s a connection there, against 0.08 s with socat, which not every host has.
SCRIPT = """
import _socket, _thread, os, sys
def copy(read, write):
    try:
        while True:
            data = read(65536)
            if not data: break
            while data: data = data[write(data):]
    except OSError: pass
    os._exit(0)
family, where, port, timeout = sys.argv[1:]
s = _socket.socket(int(family), 1)
s.settimeout(float(timeout))
try: s.connect((int(where) if where.isdigit() else where, int(port)))
except OSError as e:
    os.write(1, b"%d\\n" % (e.errno or 110)); sys.exit(1)
if int(family) == 2: s.setsockopt(6, 1, 1)
s.settimeout(None)
os.write(1, b"0\\n")
_thread.start_new_thread(copy, (lambda n: os.read(0, n), s.send))
copy(s.recv, lambda d: os.write(1, d))
"""


@dataclass(frozen=True)
class Target:
    """What to connect to. where: a context id of AF_VSOCK, an address of AF_INET. within: see
    Host.connect_tcp."""

    family: int
    where: str
    port: int
    within: tuple[str, ...] = ()

    def __str__(self) -> str:
        kind = "vsock" if self.family == AF_VSOCK else "TCP"
        return f"{kind} {self.where}:{self.port}"

    def argv(self, timeout: float) -> list[str]:
        """The relay's command line."""
        relay = [*self.within, "python3", "-I", "-S", "-c", SCRIPT]
        return [*relay, str(self.family), self.where, str(self.port), f"{timeout:.3f}"]


def connect(session: SSHSession, target: Target, timeout: float) -> Stream:
    """See Host.connect_vsock and connect_tcp.

    Raises OSError with the host's errno, TimeoutError when late, HostError without python3 there.
    """
    try:
        stream = session.stream(target.argv(timeout), timeout)
    except SSHError as error:
        raise ConnectionAbortedError(errno.ECONNABORTED, error.cause) from error
    await_answer(stream, target, timeout, session.who)
    return stream


def await_answer(stream: Stream, target: Target, timeout: float, who: str) -> None:
    """Wait until the relay on the host `who` has connected; closes the stream when it cannot."""
    try:
        # the relay keeps the time-out itself; the rest is for its start and the way back
        stream.settimeout(timeout + 5.0)
        answer = b""
        while not answer.endswith(b"\n"):  # byte by byte: what follows belongs to the caller
            piece = stream.recv(1)
            if not piece:
                raise HostError(
                    f"{who} cannot run the relay to a guest's port",
                    hint="install python3 (3.9 or later) and util-linux there",
                    stage="host",
                )
            answer += piece
        if code := int(answer):
            raise OSError(code, f"{target} on {who}: {os.strerror(code)}")
        stream.settimeout(None)
    except BaseException:
        stream.close()
        raise
