"""Requests that concern the host and no guest: KVM, connectivity, memory, utilization."""

from __future__ import annotations

import os
from typing import Any, Callable

from harness.kvm.errors import ConfigError
from harness.kvm.vm import Kvm

from .memory_quarantine import MemoryQuarantine
from .network import Network
from .utilization import Utilization

PROCESS_LIMIT_HINT = "raise pids.max or ulimit -n and -u, or run fewer guests"


class HostServices:
    """Answers the host operations of the control protocol; see `supervisor`.

    network, quarantine: shared with all guests of the supervisor.
    """

    def __init__(self) -> None:
        self.network = Network()
        self.quarantine = MemoryQuarantine()
        self._utilization = Utilization()
        self._operations: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "capabilities": _capabilities,
            "connectivity": self._connectivity,
            "quarantine_memory": self._quarantine_memory,
        }

    def handles(self, operation: str) -> bool:
        """Whether the operation concerns the host."""
        return operation in self._operations

    def answer(self, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """The "result" or "error" of a request."""
        return self._operations[operation](arguments)

    def sample(self) -> dict[str, float]:
        """The host's utilization since the last call, after releasing memory that it lacks.

        Empty when no clock tick has passed. Raises OSError when no descriptor is free.
        """
        self.quarantine.release_excess()
        values = self._utilization.sample()
        return {**values, "memory.quarantined": self.quarantine.size_mib} if values else {}

    def _quarantine_memory(self, arguments: dict[str, Any]) -> dict[str, Any]:
        self.quarantine.enabled = True
        return {"result": True}

    def _connectivity(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """vsock and the guests' network, or the cause and hint why there is no network."""
        result: dict[str, Any] = {"vsock": os.access("/dev/vhost-vsock", os.R_OK | os.W_OK)}
        for path in ("/dev/net/tun", "/dev/vhost-net") if arguments.get("taps", True) else ():
            if not os.access(path, os.R_OK | os.W_OK):
                module = os.path.basename(path).replace("-", "_")
                hint = f"load {module}, or give the user rights on {path}"
                result.update(cause=f"{path} is missing or not accessible", hint=hint)
                return {"result": result}
        try:
            result["network"] = self.network.facts()
        except ConfigError as error:
            result.update(cause=error.cause, hint=error.hint)
        except OSError as error:
            cause = f"no network for guests: {error.strerror}"
            result.update(cause=cause, hint=PROCESS_LIMIT_HINT)
        return {"result": result}


def _capabilities(arguments: dict[str, Any]) -> dict[str, Any]:
    """The capabilities of this host's KVM, by name."""
    try:
        kvm = Kvm()
    except ConfigError as error:
        return {"error": {"cause": error.cause, "hint": error.hint}}
    try:
        return {"result": kvm.capabilities()}
    finally:
        kvm.close()
