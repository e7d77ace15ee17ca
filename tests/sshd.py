"""An OpenSSH server on the loopback address for one test."""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import os
import shutil
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin")


def make_key(path: Path) -> str:
    """Write an ed25519 private key of mode 0600. Returns the public key as one line."""
    key = Ed25519PrivateKey.generate()
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
    )
    path.chmod(0o600)
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        .decode()
    )


class PrivilegeSeparationFolder:
    """/run/sshd, which root's sshd needs; made if missing, and removed after its last user.

    Each user holds a shared lock on /run, since several processes run tests. A file in the folder
    says that tests made it.
    """

    PATH = Path("/run/sshd")
    MARK = PATH / "made-by-tests"

    def __init__(self) -> None:
        self._lock = os.open(self.PATH.parent, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        if os.getuid() == 0 and not self.PATH.exists():
            self.PATH.mkdir(mode=0o755, exist_ok=True)
            self.MARK.touch()

    def close(self) -> None:
        """Idempotent."""
        if self._lock < 0:
            return
        with contextlib.suppress(OSError):  # another process uses it, or tests did not make it
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.MARK.unlink()
            self.PATH.rmdir()
        os.close(self._lock)
        self._lock = -1


class LoopbackServer:
    """Starts one `sshd -i` per connection. The listener here takes any free port."""

    def __init__(self, folder: Path) -> None:
        if SSHD is None:
            pytest.skip("sshd is not installed (apt install openssh-server)")
        self.user = getpass.getuser()
        self.client_key = folder / "client"
        self.host_key = make_key(folder / "host")
        (folder / "authorized").write_text(make_key(self.client_key) + "\n")
        self._config = folder / "sshd_config"
        self._config.write_text(
            f"HostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\nStrictModes no\n"
            f"UsePAM no\nPasswordAuthentication no\nPidFile none\n"
            f"SetEnv XDG_CACHE_HOME={folder}/cache\n"
        )
        self._privilege_separation = PrivilegeSeparationFolder()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                stream, _ = self._listener.accept()
            except OSError:
                return
            with stream:
                self._processes.append(
                    subprocess.Popen(
                        [str(SSHD), "-i", "-e", "-f", str(self._config)],
                        stdin=stream.fileno(),
                        stdout=stream.fileno(),
                        stderr=subprocess.DEVNULL,
                        start_new_session=True,
                    )
                )

    def configure(self, line: str) -> None:
        """Add a line to the configuration of later connections."""
        with self._config.open("a") as file:
            file.write(f"{line}\n")

    def open_stream(self, timeout: float) -> socket.socket:
        """See SSHSession.connect."""
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def kill_connections(self) -> None:
        """Simulate a crash: SIGKILL every server process."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._processes.clear()

    def close(self) -> None:
        """End the listener and every server process. Idempotent."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        self.kill_connections()
        self._privilege_separation.close()
