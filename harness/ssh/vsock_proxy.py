"""A proxy on a remote host that connects this machine to guests' vsock ports.

The proxy is one long-lived process. It listens on the host's loopback address, which SSH reaches
by forwarding (direct-tcpip). A connection then takes one round trip and no new process. Other users
of the host can reach the port as well, so each connection begins with a secret token. `relay` does
the same without forwarding, with one process per connection.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress

from harness.errors import HostError, SSHError
from harness.ssh.process import Process, Stream
from harness.ssh.relay import read_line
from harness.ssh.session import SSHSession

# The proxy needs only python3 >= 3.9 on the host. It ends when its standard input ends. A client
# sends the line "TOKEN CID PORT TIMEOUT". The proxy answers with an errno or 0, then copies bytes.
SCRIPT = """
import _socket, _thread, os
def line(read):
    got = b""
    while not got.endswith(b"\\n") and len(got) < 256:
        piece = read(1)
        if not piece: break
        got += piece
    return got.split()
def copy(source, target):
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
        request = line(client.recv)
        if len(request) != 4 or request[0] != token: return
        guest.settimeout(float(request[3]))
        try: guest.connect((int(request[1]), int(request[2])))
        except OSError as error:
            client.sendall(b"%d\\n" % (error.errno or 110))
            return
        client.setsockopt(6, 1, 1)
        client.settimeout(None)
        guest.settimeout(None)
        client.sendall(b"0\\n")
        _thread.start_new_thread(copy, (guest, client))
        copy(client, guest)
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
    """A proxy process on a remote host, and connections through it."""

    def __init__(self, process: Process) -> None:
        """process: runs SCRIPT on the host. Raises HostError when the script does not start."""
        self._token = secrets.token_hex(16)
        process.write(f"{self._token}\n".encode())
        port = process.readline().strip()
        if not port.isdigit():
            raise HostError(
                f"the vsock proxy does not start: {process.stderr_tail().strip()}",
                hint="install python3 (3.9 or later) on the host",
                stage="host",
            )
        self._port = int(port)

    def connect(self, session: SSHSession, cid: int, port: int, timeout: float) -> Stream:
        """Connect to port `port` of the guest with context id `cid`.

        Raises OSError with the host's errno, SSHError when the host does not forward.
        """
        host = session.server_name
        stream = session.forward("127.0.0.1", self._port, timeout)
        try:
            # the proxy applies the timeout itself; 5 s more for its answer
            stream.settimeout(timeout + 5.0)
            stream.send(f"{self._token} {cid} {port} {timeout:.3f}\n".encode())
            answer = read_line(stream)
            if not answer:
                raise SSHError(
                    f"the vsock proxy on {host} has ended",
                    hint="check that no other program kills it",
                    stage="host",
                )
            if code := int(answer):
                raise OSError(code, f"vsock {cid}:{port} on {host}: {os.strerror(code)}")
            stream.settimeout(None)
        except BaseException:
            with suppress(OSError):
                stream.close()
            raise
        return stream
