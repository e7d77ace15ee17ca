"""passt: one process for each network device that it carries, without any rights."""

from __future__ import annotations

import os
import socket
import subprocess

from harness.kvm.errors import ConfigError
from harness.vmm.config import NetworkConfig

_OPTIONS = ("--foreground", "--quiet", "--ipv4-only", "--no-dhcp", "--mtu", "1500")


class PasstProcess:
    """See harness/vmm/devices/virtio/passt.py."""

    def __init__(self, network: NetworkConfig) -> None:
        """Raises ConfigError without passt."""
        self._said = said = os.memfd_create("passt", os.MFD_CLOEXEC)
        self.socket, theirs = socket.socketpair()
        address, _, prefix = network.address.partition("/")
        where = "--address", address, "--netmask", prefix, "--gateway", network.gateway
        with theirs:
            fd = theirs.fileno()
            argv = ["passt", *_OPTIONS, *where, "--fd", str(fd)]
            try:
                self.process = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=said, stderr=said, pass_fds=[fd]
                )
            except OSError as error:
                raise ConfigError(f"passt: {error.strerror}", "install passt") from error

    def exit_report(self) -> str:
        self.process.wait()
        return os.pread(self._said, 4096, 0).decode("utf-8", "replace").strip()
