"""The protocol of a host: commands, processes, files, and connections to guests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from harness.ssh.process import Completed, Process, Stream


@dataclass(frozen=True)
class HostFacts:
    """The stable facts of a host. Every sample carries their fingerprint.

    backend: "vmx", "svm", "pvm", "emulated" or "none". cpus: the number of CPUs that this process
    may use; cpu_numbers lists them. core_threads: the CPUs of each core; empty if the host does not
    say, and each CPU then counts as a core. memory: bytes.
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
    core_threads: Sequence[Sequence[int]] = ()

    def __post_init__(self) -> None:
        if not self.cpu_numbers:
            object.__setattr__(self, "cpu_numbers", tuple(range(self.cpus)))

    def siblings(self, cpu: int) -> Sequence[int]:
        """The CPUs of the core that has this CPU, itself included: more than one with SMT."""
        return next((threads for threads in self.core_threads if cpu in threads), (cpu,))

    def cores(self, cpus: Iterable[int]) -> int:
        """The number of cores that these CPUs belong to."""
        return len({min(self.siblings(cpu)) for cpu in cpus})

    @property
    def fingerprint(self) -> str:
        """12 hex digits over the fields that change figures, without host name and memory size."""
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
        emulated: True when software emulates its CPU. Its figures say nothing about hardware.
        reason: one line that says why this host was chosen.
        needs_replacement: True when a fault of the host may break or slow later guests. Only
            emulated hosts have such faults; a session then replaces the host.
        replacement_reason: the reason that request_replacement() got, "" without a request.
        tainted: True when a fault of the host may have broken earlier guests.
    """

    name: str
    emulated: bool
    reason: str

    @property
    def needs_replacement(self) -> bool: ...

    @property
    def replacement_reason(self) -> str: ...

    @property
    def tainted(self) -> bool: ...

    def request_replacement(self, reason: str) -> None:
        """Make needs_replacement true. The session then replaces the host before the next test and
        notes the reason. Only the emulated host does so: guests leave no state on other hosts."""

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
        """Run a command to its end.

        Raises CommandError if `check` is set and the status is not 0, HostError after `timeout`
        seconds or when the connection breaks.
        """

    def spawn(self, argv: Sequence[str]) -> Process:
        """Start a process. It ends at close() at the latest."""

    def place(self, path: Path, *, regular: bool = False, executable: bool = False) -> str:
        """Make a local file readable on the host. Returns its path there.

        The same content is transferred only once. Do not write to the result: it may be `path`
        itself.

        regular: a regular file of the true size. Without this the emulated host attaches a file of
        1 MiB or more as a read-only block device: stat() reports the size 0, and zeros pad the
        content to a multiple of 512 bytes. A disk may be such a device. Most VMMs need a regular
        file for the kernel and the initramfs.
        executable: a regular file that the host can execute.

        Raises HostError.
        """

    def scratch(self, mapped: int = 0) -> str:
        """The session's private directory on the host, on a disk that supports O_DIRECT.

        It is removed at close(). mapped: the size in MiB of a file to be mapped, 0 for none. For
        such a file the emulated host returns a directory with huge pages if it has enough memory.
        """

    def connect_vsock(self, cid: int, port: int, timeout: float) -> Stream:
        """Connect to a guest's AF_VSOCK port from the host.

        Raises OSError when the guest refuses or does not answer within `timeout` seconds.
        """

    def connect_tcp(
        self, address: str, port: int, timeout: float, command_prefix: Sequence[str] = ()
    ) -> Stream:
        """Connect to a TCP port from the host. Raises OSError like connect_vsock().

        command_prefix: the start of a command line, such as nsenter's, that runs a command in the
        network namespace of the address.
        """

    def close(self) -> None:
        """End every process of spawn() and remove scratch(). Idempotent."""
