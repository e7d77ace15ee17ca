"""A connection to a guest's port through one relay process on the guest's host.

On a remote host the relay runs on an exec channel. On this machine it is a child process in the
guests' network namespace. Each connection has its own relay.
"""

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

# The relay needs only python3 >= 3.9 on the host. It writes one line with an errno or 0, then
# copies bytes until either side ends. It imports _socket and _thread since imports are slow on an
# emulated CPU. There a connection takes 0.12 s; socat takes 0.08 s, but not every host has it.
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
family, address, port, timeout = sys.argv[1:]
s = _socket.socket(int(family), 1)
s.settimeout(float(timeout))
try: s.connect((int(address) if address.isdigit() else address, int(port)))
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
    """A guest's port.

    family: AF_VSOCK or AF_INET. address: a context id of AF_VSOCK, or an IPv4 address.
    command_prefix: see Host.connect_tcp.
    """

    family: int
    address: str
    port: int
    command_prefix: tuple[str, ...] = ()

    def __str__(self) -> str:
        kind = "vsock" if self.family == AF_VSOCK else "TCP"
        return f"{kind} {self.address}:{self.port}"

    def argv(self, timeout: float) -> list[str]:
        """The relay's command line. timeout: seconds for its connection to the guest."""
        relay = [*self.command_prefix, "python3", "-I", "-S", "-c", SCRIPT]
        return [*relay, str(self.family), self.address, str(self.port), f"{timeout:.3f}"]


def connect(session: SSHSession, target: Target, timeout: float) -> Stream:
    """Start a relay on a remote host and wait until it has connected.

    Raises OSError with the host's errno, TimeoutError after `timeout` seconds, HostError when the
    host has no python3.
    """
    try:
        stream = session.stream(target.argv(timeout), timeout)
    except SSHError as error:
        raise ConnectionAbortedError(errno.ECONNABORTED, error.cause) from error
    await_answer(stream, target, timeout, session.server_name)
    return stream


def read_line(stream: Stream) -> bytes:
    """One line of a stream; b"" when the stream ends before the line does."""
    line = b""
    while not line.endswith(b"\n"):  # byte by byte: the next bytes belong to the caller
        piece = stream.recv(1)
        if not piece:
            return b""
        line += piece
    return line


def await_answer(stream: Stream, target: Target, timeout: float, host_name: str) -> None:
    """Wait until the relay has connected to the target. Closes the stream when it fails."""
    try:
        # the relay applies the timeout itself; 5 s more for its start and its answer
        stream.settimeout(timeout + 5.0)
        answer = read_line(stream)
        if not answer:
            raise HostError(
                f"{host_name} cannot run the relay to a guest's port",
                hint="install python3 (3.9 or later) and util-linux on that host",
                stage="host",
            )
        if code := int(answer):
            raise OSError(code, f"{target} on {host_name}: {os.strerror(code)}")
        stream.settimeout(None)
    except BaseException:
        stream.close()
        raise
