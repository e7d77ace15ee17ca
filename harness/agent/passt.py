"""passt: an unprivileged process for each network device of its kind."""

from __future__ import annotations

import os
import socket
import subprocess

from harness.kvm.errors import ConfigError
from harness.vmm.config import NetworkConfig

_OPTIONS = ("--foreground", "--quiet", "--ipv4-only", "--no-dhcp", "--mtu", "1500")


class PasstProcess:
    """See PasstConnection in harness/vmm/devices/virtio/passt.py."""

    def __init__(self, network: NetworkConfig) -> None:
        """Raises ConfigError if passt is not installed."""
        self._output = output = os.memfd_create("passt", os.MFD_CLOEXEC)
        self.socket, passt_end = socket.socketpair()
        address, _, prefix = network.address.partition("/")
        addressing = "--address", address, "--netmask", prefix, "--gateway", network.gateway
        with passt_end:
            fd = passt_end.fileno()
            argv = ["passt", *_OPTIONS, *addressing, "--fd", str(fd)]
            try:
                self.process = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=[fd]
                )
            except OSError as error:
                raise ConfigError(f"passt: {error.strerror}", "install passt") from error

    def exit_report(self) -> str:
        self.process.wait()
        return os.pread(self._output, 4096, 0).decode("utf-8", "replace").strip()
