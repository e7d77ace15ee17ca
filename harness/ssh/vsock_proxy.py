"""Guests' vsock ports through one process that stands ready on a host reached by SSH.

It listens on the host's loopback, and SSH's own forwarding (direct-tcpip) leads there, so that a
connection costs a round trip and no process. Other users of the host could connect, too: a token
that only this session knows comes first. Where forwarding is forbidden, `relay` is the way.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress

from harness.errors import HostError, SSHError
from harness.ssh.process import Process, Stream
from harness.ssh.session import SSHSession

# Runs on the host with python3 >= 3.9 alone; ends with its standard input. Each connection says
# "TOKEN CID PORT TIMEOUT" in a line and is answered by the errno or 0, then only carries bytes.
SCRIPT = """
import _socket, _thread, os
def line(read):
    got = b""
    while not got.endswith(b"\\n") and len(got) < 256:
        piece = read(1)
        if not piece: break
        got += piece
    return got.split()
def carry(source, target):
    try:
        while True:
            data = source.recv(65536)
            if not data: break
            target.sendall(data)
    except OSError: pass
    for end in source, target:
        try: end.shutdown(2)
        except OSError: pass
def serve(fd):
    client, guest = _socket.socket(fileno=fd), _socket.socket(40, 1)
    try:
        client.settimeout(10.0)
        asked = line(client.recv)
        if len(asked) != 4 or asked[0] != token: return
        guest.settimeout(float(asked[3]))
        try: guest.connect((int(asked[1]), int(asked[2])))
        except OSError as error:
            client.sendall(b"%d\\n" % (error.errno or 110))
            return
        client.setsockopt(6, 1, 1)
        client.settimeout(None)
        guest.settimeout(None)
        client.sendall(b"0\\n")
        _thread.start_new_thread(carry, (guest, client))
        carry(client, guest)
    except (OSError, ValueError): pass
def accept():
    while True:
        fd, _ = listener._accept()
        _thread.start_new_thread(serve, (fd,))
token, = line(lambda n: os.read(0, n))
listener = _socket.socket(2, 1)
listener.bind(("127.0.0.1", 0))
listener.listen(64)
os.write(1, b"%d\\n" % listener.getsockname()[1])
_thread.start_new_thread(accept, ())
while os.read(0, 64): pass
os._exit(0)
"""


class VsockProxy:
    """The process on the host, and the way to it."""

    def __init__(self, process: Process) -> None:
        """process: runs SCRIPT. Raises HostError when it does not."""
        self._token = secrets.token_hex(16)
        process.write(f"{self._token}\n".encode())
        answer = process.readline().strip()
        if not answer.isdigit():
            raise HostError(
                f"the vsock relay does not start: {process.stderr_tail().strip()}",
                hint="install python3 (3.9 or later) on the host",
                stage="host",
            )
        self._port = int(answer)

    def connect(self, session: SSHSession, cid: int, port: int, timeout: float) -> Stream:
        """See Host.connect_vsock. Raises OSError with the host's errno, SSHError when the host
        does not forward."""
        stream = session.forward("127.0.0.1", self._port, timeout)
        try:
            # the relay keeps the time-out itself; the rest is for the way
            stream.settimeout(timeout + 5.0)
            stream.send(f"{self._token} {cid} {port} {timeout:.3f}\n".encode())
            answer = b""
            while not answer.endswith(b"\n"):  # byte by byte: what follows is the caller's
                piece = stream.recv(1)
                if not piece:
                    raise SSHError(f"{session.who}: the vsock relay is gone", stage="host")
                answer += piece
            if code := int(answer):
                raise OSError(code, f"vsock {cid}:{port} on {session.who}: {os.strerror(code)}")
            stream.settimeout(None)
        except BaseException:
            with suppress(OSError):
                stream.close()
            raise
        return stream
