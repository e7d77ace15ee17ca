"""What a session reports at its end; pytest-xdist's controller merges its workers' reports."""

from __future__ import annotations

from typing import Any

from harness.errors import HarnessError


class SessionReport:
    """Lines and outputs for the terminal's summary.

    Attributes:
        notes: lines on what happened.
        leaks: lines on what could not be ended.
        outputs: plain data of harness.plugin.outputs.Outputs, one entry for each recorder.
        usage_errors: usage errors of pytest-xdist's workers.
        started: whether a host or a hypervisor was to start, here or on a worker.
        measures: whether a collected test measures, here or on a worker.
        gate_failure: why --virt-gate=fail fails the session; "" if it does not.
        header: the workers' line on what the tests use; "" without workers.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.leaks: list[str] = []
        self.outputs: list[dict[str, Any]] = []
        self.usage_errors: list[str] = []
        self.started = False
        self.measures = False
        self.gate_failure = ""
        self.header = ""

    def add_leak(self, what: str, error: Exception) -> None:
        """Note that `what` may still exist. Errors of stages before "teardown" do not say so."""
        if isinstance(error, HarnessError) and error.stage != "teardown":
            return
        cause = error.cause if isinstance(error, HarnessError) else repr(error)
        if (line := f"{what}: {cause}") not in self.leaks:
            self.leaks.append(line)

    def worker_report(self, usage_error: str) -> dict[str, Any]:
        """This report as plain data, for the controller."""
        return {
            "usage_error": usage_error,
            "notes": self.notes,
            "leaks": self.leaks,
            "outputs": self.outputs,
            "started": self.started,
            "measures": self.measures,
            "header": self.header,
        }

    def merge_worker_report(self, report: dict[str, Any]) -> None:
        """Add the plain data of a worker's report."""
        if report["usage_error"] and report["usage_error"] not in self.usage_errors:
            self.usage_errors.append(report["usage_error"])
        self.notes += report["notes"]
        self.leaks += report["leaks"]
        self.outputs += report["outputs"]
        self.started = self.started or report["started"]
        self.measures = self.measures or report["measures"]
        self.header = self.header or report["header"]
