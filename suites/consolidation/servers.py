"""The servers that the workload image has: what hv-serve starts, and how requests reach it."""

from __future__ import annotations

from dataclasses import dataclass

from harness.guest.guest import Guest

START_TIMEOUT = 90.0  # seconds


@dataclass(frozen=True)
class Server:
    """A server of the workload image.

    protocol: of hv-load, or "pgbench". port: TCP.
    """

    protocol: str
    port: int


SERVERS = {
    "web": Server("http", 80),
    "cache": Server("resp", 6379),
    "oltp": Server("pgbench", 5432),
    "batch": Server("job", 7001),
    "idle": Server("echo", 7000),
}


def start_server(guest: Guest, name: str, work: int = 0) -> None:
    """Start a server in a guest, and wait until it accepts connections.

    work: stress-ng's operations in a job of "batch". Raises CommandError with the server's log.
    """
    guest.ssh.run(["hv-serve", name, *([str(work)] if work else [])], timeout=START_TIMEOUT)
