"""One pytest process's session: its hosts, guests, recorder and report, and their common end."""

# ruff: noqa: PLC0415 - every pytest run loads this module, so heavy imports are inside functions
from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import HarnessError
from harness.hosts import conditions
from harness.plugin.context import RunContext
from harness.plugin.guest_registry import GuestRegistry, raise_all
from harness.plugin.host_manager import HostManager
from harness.plugin.payload_host import PayloadHost
from harness.plugin.provisioner import Provisioner
from harness.plugin.session_report import SessionReport

if TYPE_CHECKING:
    from harness.plugin.gate import Gate
    from harness.plugin.recorder import Recorder

KEY = pytest.StashKey["Session"]()


class Session:
    """What one pytest process holds. pytest_configure makes it; nothing starts before start().

    Attributes:
        context: settings, names, directories, progress.
        hosts: the host and its hypervisors.
        provisioner: images and guest factories.
        guests: the guests.
        payloads: what runs payload guests; it may have a host of its own.
        report: what the terminal's summary prints.
        recorder: None before the first need_recorder().
        gate: the baseline of this run.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._load = conditions.local_load()  # before this session itself makes load
        self.config = config
        self.context = RunContext(config)
        self.settings = self.context.settings
        self.progress = self.context.progress
        self.report = SessionReport()
        self.hosts = HostManager(self.context)
        self.guests = GuestRegistry(self.context, self.report)
        self.provisioner = Provisioner(self.context, self.hosts, self.guests.add)
        self.payloads = PayloadHost(self.context, self.hosts, self.guests.add)
        self.recorder: Recorder | None = None
        self.gate: Gate | None = None
        self._sigterm: Any = None

    def start(self) -> None:
        """Start a host and its hypervisors, once. See HostManager.start for failures."""
        if not self.hosts.usage_error:
            self._end_on_sigterm()
        self.report.started = True
        self.hosts.start()

    def start_payloads(self) -> None:
        """Start what runs payload guests, once. See PayloadHost.start for failures."""
        self._end_on_sigterm()
        self.report.started = True
        self.payloads.start()

    def _end_on_sigterm(self) -> None:
        """SIGTERM ends the session as Ctrl-C does: in order, and without a loss of samples."""
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            self._sigterm = signal.signal(signal.SIGTERM, signal.default_int_handler)

    def usage_problem(self) -> str | None:
        """Why this session is a usage error; None when it is none."""
        return self.hosts.usage_problem() or self.payloads.usage_problem()

    @property
    def needs_replacement(self) -> bool:
        """Whether the host must be replaced, and no guest runs on it."""
        return (
            self.hosts.host_needs_replacement and self.guests.all_ended and not self.guests.closed
        )

    def replace_host(self) -> None:
        """Continue on another host of the same kind, with the same hypervisors."""
        self.payloads.forget(self.hosts.hypervisors.values())
        if self.hosts.host is not None and (reason := self.hosts.host.replacement_reason):
            self.note(f"the emulated host was replaced: {reason}")
        self.hosts.replace()
        self.provisioner.move_to_new_host()
        if self.recorder is not None:
            self.recorder.watch()

    # -- measurements ------------------------------------------------------------------------

    def need_recorder(self) -> Recorder:
        """The run's recorder. The first call makes it and starts to record the utilization of host
        and guests. Raises ResultError."""
        if self.recorder is None:
            from harness.plugin.recorder import Recorder

            self.recorder = Recorder(
                self.context, self.hosts, self.payloads, self.provisioner, self.note
            )
            self._note_conditions()
            self.recorder.watch()
        return self.recorder

    def choose_baseline(self) -> None:
        """Find the run that --virt-baseline names. Raises ResultError when there is none."""
        if self.settings.baseline:
            from harness.plugin.gate import Gate

            if self.settings.remote is not None:
                self.settings.remote.pull()
            self.gate = Gate.from_store(self.settings.results, self.settings.baseline)

    def _note_conditions(self) -> None:
        """Note what makes this host's figures vary."""
        host = self.hosts.host
        if host is None:
            return
        try:
            lines = conditions.find_disturbances(host.run, host.facts, self._load)
        except HarnessError as error:
            lines = [f"the host's conditions cannot be checked: {error.cause}"]
        for line in lines:
            self.note(f"figures may vary: {line}")

    def note(self, text: str) -> None:
        """Print a line now, and again in the summary."""
        self.progress(text)
        self.report.notes.append(text)

    def write_outputs(self, exit_status: int) -> None:
        """Write samples and reports, if there is a recorder. See SessionReport.outputs."""
        if self.recorder is None:
            return
        from harness.plugin.outputs import write_outputs

        outputs = write_outputs(self.context, self.recorder, self.gate, self.report, exit_status)
        self.report.outputs.append(outputs.as_json())

    # -- the end -----------------------------------------------------------------------------

    def close(self) -> None:
        """End guests, hypervisors and hosts. Idempotent.

        Raises the error of what could not be ended, or an ExceptionGroup of several.
        """
        if self.guests.closed or not (self.hosts.started or self.payloads.started):
            return
        self.guests.keep_remaining()
        errors: list[Exception] = []

        def attempt(what: str, action: Callable[[], object]) -> None:
            try:
                action()
            except Exception as error:
                errors.append(error)
                self.report.add_leak(what, error)

        stage = self.progress.stage("teardown") if self.hosts.host else contextlib.nullcontext()
        with stage:
            self.guests.close(attempt)
            attempt("payload guests", self.payloads.close)
            self.hosts.close(attempt)
            attempt("temporary files", self.context.remove_scratch)
        if self._sigterm is not None:
            signal.signal(signal.SIGTERM, self._sigterm)
        raise_all("left at the session's end", errors)

    def worker_report(self) -> dict[str, Any]:
        """What a pytest-xdist worker sends to its controller, as plain data."""
        return self.report.worker_report(self.usage_problem() or "")


def session_of(config: pytest.Config) -> Session:
    """The session of a pytest process."""
    return config.stash[KEY]
