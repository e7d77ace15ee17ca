"""A guest's vsock port through a host that is reached by SSH: one exec channel a connection."""

from __future__ import annotations

import errno
import os

from harness.errors import HostError, SSHError
from harness.guest.ssh import SSHSession
from harness.hosts.base import Stream

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
s = _socket.socket(40, 1)
s.settimeout(float(sys.argv[3]))
try: s.connect((int(sys.argv[1]), int(sys.argv[2])))
except OSError as e:
    os.write(1, b"%d\\n" % (e.errno or 110)); sys.exit(1)
s.settimeout(None)
os.write(1, b"0\\n")
_thread.start_new_thread(copy, (lambda n: os.read(0, n), s.send))
copy(s.recv, lambda d: os.write(1, d))
"""


def connect_vsock(session: SSHSession, cid: int, port: int, timeout: float) -> Stream:
    """See Host.connect_vsock.

    Raises OSError with the host's errno, TimeoutError when late, HostError without python3 there.
    """
    argv = ["python3", "-I", "-S", "-c", SCRIPT, str(cid), str(port), f"{timeout:.3f}"]
    try:
        stream = session.stream(argv, timeout)
    except SSHError as error:
        raise ConnectionAbortedError(errno.ECONNABORTED, error.cause) from error
    try:
        # the relay keeps the time-out itself; the rest is for its start and the way back
        stream.settimeout(timeout + 5.0)
        answer = b""
        while not answer.endswith(b"\n"):  # byte by byte: what follows belongs to the caller
            piece = stream.recv(1)
            if not piece:
                raise HostError(
                    f"{session.who} cannot run the vsock relay",
                    mend="install python3 (3.9 or later) there",
                    stage="host",
                )
            answer += piece
        if code := int(answer):
            raise OSError(code, f"vsock {cid}:{port} on {session.who}: {os.strerror(code)}")
        stream.settimeout(None)
    except BaseException:
        stream.close()
        raise
    return stream
