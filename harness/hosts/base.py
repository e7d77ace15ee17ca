"""What every host gives: run a command, keep a process, place a file, reach a guest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from harness.ssh.process import Completed, Process, Stream


@dataclass(frozen=True)
class HostFacts:
    """Stable facts of a host: the fingerprint that every sample carries.

    backend: "vmx", "svm", "pvm", "emulated" or "none". cpus: how many are ours to use, by the
    numbers in cpu_numbers. memory: bytes.
    """

    hostname: str
    backend: str
    cpu_model: str
    cpus: int
    memory: int
    kernel: str
    microcode: str = ""
    governor: str = ""
    smt: str = ""
    mitigations: Mapping[str, str] = field(default_factory=dict)
    cpu_numbers: Sequence[int] = ()

    def __post_init__(self) -> None:
        if not self.cpu_numbers:
            object.__setattr__(self, "cpu_numbers", tuple(range(self.cpus)))

    @property
    def fingerprint(self) -> str:
        """12 hex digits over the stable fields: never names, never the memory's momentary use."""
        stable = {
            "backend": self.backend,
            "cpu_model": self.cpu_model,
            "cpus": self.cpus,
            "kernel": self.kernel,
            "microcode": self.microcode,
            "governor": self.governor,
            "smt": self.smt,
            "mitigations": dict(self.mitigations),
        }
        return hashlib.sha256(json.dumps(stable, sort_keys=True).encode()).hexdigest()[:12]


class Host(Protocol):
    """A machine on which hypervisors run.

    Attributes:
        name: "local", "emulated" or "ssh://user@name".
        emulated: True when its CPU is software: no figure of it speaks about hardware.
        why: one line: why this host was taken.
        needs_replacement: True when its next guests may fail, or be measured, for a fault of the
            host; only of an emulated host, which a session then replaces.
        tainted: True when its guests so far may have failed for a fault of the host.
    """

    name: str
    emulated: bool
    why: str

    @property
    def needs_replacement(self) -> bool: ...

    @property
    def tainted(self) -> bool: ...

    @property
    def facts(self) -> HostFacts: ...

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float = 30.0,
        check: bool = True,
        input: bytes = b"",
    ) -> Completed:
        """Run to its end; CommandError when check and status != 0, HostError when late or lost."""

    def spawn(self, argv: Sequence[str]) -> Process: ...

    def place(self, path: Path) -> str:
        """Make a local file readable on the host and return its path there.

        Keyed by content: placing it twice costs nothing. On a host that shares this machine's
        files it is `path` itself; on the emulated host a large file may be a read-only block
        device (its size then is padded to 512 bytes with zeros).
        """

    def scratch(self, mapped: int = 0) -> str:
        """A directory of this session's own on the host, on a disk that knows O_DIRECT; removed
        at close. mapped: for a file of so many MiB that is to be mapped: the emulated host has
        huge pages for that, as long as it has memory to spare."""

    def connect_vsock(self, cid: int, port: int, timeout: float) -> Stream:
        """Connect to a guest's AF_VSOCK port from the host. Raises OSError when refused or late."""

    def connect_tcp(
        self, address: str, port: int, timeout: float, within: Sequence[str] = ()
    ) -> Stream:
        """Connect to a TCP port from the host. Raises OSError when refused or late.

        within: the start of a command line, as nsenter's, that puts a command into the network
        where the address is.
        """

    def close(self) -> None: ...
