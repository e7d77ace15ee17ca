"""An OpenSSH server on the loopback address for one test."""

from __future__ import annotations

import contextlib
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
        self._created_folder: Path | None = None
        if os.getuid() == 0 and not Path("/run/sshd").exists():
            self._created_folder = Path("/run/sshd")  # sshd needs it for privilege separation
            self._created_folder.mkdir(mode=0o755)
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
        if self._created_folder is not None:
            with contextlib.suppress(OSError):
                self._created_folder.rmdir()
            self._created_folder = None
