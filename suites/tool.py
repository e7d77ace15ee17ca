"""Our timing tools in the guest (hv-exits, hv-ops): a command line in, batches out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from harness.errors import WorkloadError
from harness.guest.guest import Guest

TIMEOUT = 120.0


@dataclass(frozen=True)
class Timed:
    """batches: what each took, "ns" and mostly "cycles". ops: operations in each."""

    batches: list[dict[str, float]]
    ops: int

    @property
    def seconds(self) -> float:
        return sum(batch["ns"] for batch in self.batches) / 1e9


def operations(ops: int, batches: int) -> int:
    """All that hv-exits does, as suites/bare: a tenth of a batch, and one, before the first."""
    return ops * batches + ops // 10 + 1


def time(guest: Guest, tool: str, case: str, ops: int, batches: int, *options: str) -> Timed:
    """Raises WorkloadError when the tool's output cannot be used, CommandError when it fails."""
    argv = [tool, case, "--ops", str(ops), "--batches", str(batches), *options]
    text = guest.ssh.run(argv, timeout=TIMEOUT).stdout
    try:
        result: dict[str, Any] = json.loads(text)
        found = [{key: float(value) for key, value in one.items()} for one in result["batches"]]
        if len(found) != batches or not all(batch["ns"] > 0 for batch in found):
            raise ValueError("batches are missing")
        return Timed(found, ops)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WorkloadError(
            f"{tool} {case} printed no result: {text[-200:]!r}",
            mend="build the guest image again: python -m images build guest",
            stage="run",
            guest=guest.name,
        ) from error
