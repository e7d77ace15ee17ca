"""All that one pytest process holds for the harness: host, hypervisor, guests, what is left."""

# ruff: noqa: PLC0415 - every pytest run loads the plugin: heavy imports wait for a test in need
from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import pytest

from harness import scratch
from harness.errors import HarnessError, HostError, ImageError
from harness.hosts import conditions
from harness.hypervisors import registry
from harness.hypervisors.capabilities import SupportsOwnImage, needs_kvm
from harness.plugin.options import settings
from harness.plugin.payload_host import Payloads
from harness.plugin.progress import Progress

# Every pytest run loads this module: paramiko, pyarrow and the like only those that need them.
if TYPE_CHECKING:
    from harness.guest.base import BaseGuest
    from harness.guest.factory import GuestFactory
    from harness.guest.guest import Guest
    from harness.hosts.base import Host
    from harness.hypervisors.base import Hypervisor, HypervisorFactory
    from harness.plugin.gate import Gate
    from harness.plugin.recorder import Recorder
    from images.image import GuestImage

KEY = pytest.StashKey["Session"]()
BASELINE = "native"


class Session:
    """One pytest process's hosts and guests. Made at configure; nothing starts before `start`.

    Attributes:
        hypervisors: what the guests run on, by label; all on one host.
        wants_baseline: tests run on BASELINE, too, though nobody named it. no_baseline: why they
            cannot.
        unusable: why there is no hypervisor, if that is so.
        payloads: what runs flat code, maybe elsewhere.
        forbidden: what the command line asks for and cannot have.
        gate: the baseline of this run.
        broken: an image that could not be had: every test that needs it errs with this.
        guests: those that may still run. used: those that the present test has to do with.
        reported: guests whose unexpected end a test has already failed for.
        failed: guests of failed tests, whose consoles are kept.
        kept: guests that --guest-keep spares until the end.
        notes, leaks: lines for the terminal's summary.
        attempt: at the present test, from 1; see harness.plugin.rerun.
        outputs: what recorders left, as plain data; see harness.plugin.recorder.Outputs.
        remote_usage: usage errors that xdist's workers met.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self._load = conditions.local_load()  # before the session adds load
        self.settings = settings(config)
        self.progress = Progress(config)
        self.host: Host | None = None
        self.hypervisors: dict[str, Hypervisor] = {}
        self.wants_baseline = False
        self.no_baseline: HarnessError | None = None
        self.unusable: HarnessError | None = None
        self.payloads = Payloads(self)
        self.forbidden = ""
        self.broken: HarnessError | None = None
        self.recorder: Recorder | None = None
        self.gate: Gate | None = None
        self._images: dict[str, GuestImage] = {}
        self._factories: dict[str, GuestFactory] = {}
        self.guests: list[BaseGuest] = []
        self.used: list[BaseGuest] = []
        self.reported: set[BaseGuest] = set()
        self.failed: set[BaseGuest] = set()
        self.kept: list[Guest] = []
        self.notes: list[str] = []
        self.leaks: list[str] = []
        self.attempt = 1
        self.outputs: list[dict[str, Any]] = []
        self.remote_usage: list[str] = []
        self._sigterm: Any = None
        self._started = False
        self._closed = False

    # -- names -------------------------------------------------------------------------------

    @property
    def worker(self) -> dict[str, Any] | None:
        """xdist's workerinput; None outside of a worker."""
        return getattr(self.config, "workerinput", None)

    @property
    def worker_count(self) -> int:
        return int(self.worker["workercount"]) if self.worker else 1

    @cached_property
    def run(self) -> str:
        """The run's id: one for all workers."""
        if self.worker:
            return str(self.worker["harness_run"])
        from harness.results.store import new_run_id  # heavy: only runs that need it pay

        return new_run_id()

    @cached_property
    def prefix(self) -> str:
        """Start of every guest's name: short, and in no other session or worker."""
        worker = str(self.worker["workerid"]) if self.worker else "main"
        return f"{self.run.rpartition('-')[2]}-{worker}"

    @property
    def run_directory(self) -> Path:
        """What people look at of this run: the report, consoles of failed tests."""
        return self.settings.results / self.run

    @cached_property
    def scratch(self) -> Path:
        """Temporary files of this session; gone at its end."""
        return scratch.make()

    @property
    def artifacts(self) -> Path:
        return self.settings.artifacts or self.run_directory / "consoles"

    # -- start -------------------------------------------------------------------------------

    def start(self) -> None:
        """Take a host and a hypervisor. Never raises HarnessError: see unusable and broken."""
        if self._started or self.forbidden:
            return
        self._started = True
        self.end_on_sigterm()
        try:
            self._start()
        except ImageError as error:
            self.broken = error
        except HarnessError as error:
            self.unusable = error

    def end_on_sigterm(self) -> None:
        """SIGTERM ends a session as Ctrl-C does: in order, with the samples so far kept."""
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            self._sigterm = signal.signal(signal.SIGTERM, signal.default_int_handler)

    def _start(self) -> None:
        if self.settings.hypervisors != ("auto",):
            targets = self.settings.targets
            self._take({label: registry.load(name) for label, name in targets.items()})
            return
        refused: list[HostError] = []
        for name in registry.AUTO:
            try:
                self._take({name: registry.load(name)})
                return
            except HostError as error:
                refused.append(error)
        if len(refused) == 1:
            raise refused[0]
        causes = "; ".join(error.cause for error in refused)
        hints = "; or ".join(error.hint for error in refused if error.hint)
        raise HostError(causes, hint=hints, stage="host")

    def _take(self, factories: dict[str, HypervisorFactory]) -> None:
        """A host for them all, and each of them on it; all or none."""
        kvm = any(map(needs_kvm, factories.values()))
        with self.progress.stage("host"):
            if kvm or self.settings.host not in ("auto", "local"):
                from harness.hosts.select import select_host

                host = select_host(self.settings.host, self.progress)
            else:
                from harness.hosts.local import LocalHost

                host = LocalHost(f"{self.settings.hypervisor} needs no KVM")
        with contextlib.ExitStack() as undo:
            undo.callback(host.close)
            made: dict[str, Hypervisor] = {}
            with self.progress.stage("hypervisor"):
                for label, factory in factories.items():
                    made[label] = factory(host, self.progress)
                    undo.callback(made[label].close)
                    made[label].name = label
                if self.wants_baseline:
                    try:
                        made[BASELINE] = registry.load(BASELINE)(host, self.progress)
                    except HarnessError as error:
                        self.no_baseline = error
            undo.pop_all()
        self.host, self.hypervisors = host, made
        facts = host.facts
        self.progress(
            f"{', '.join(made)} on host {host.name}: backend {facts.backend}, "
            f"{facts.cpus} x {facts.cpu_model}, kernel {facts.kernel}, "
            f"governor {facts.governor or 'none'}, SMT {facts.smt or 'unknown'}"
        )

    @property
    def needs_replacement(self) -> bool:
        """Whether the host is due for replacement, and no guest runs on it."""
        idle = all(guest.ended.is_set() for guest in self.guests)
        return idle and not self._closed and self.host is not None and self.host.needs_replacement

    def renew(self) -> None:
        """Another host of the same kind, with the same hypervisors. As start()."""
        self.progress("the emulated host is worn: another one takes its place")
        old, host = self.hypervisors, self.host
        self.payloads.forget(old.values())
        for one in (*old.values(), host):
            with contextlib.suppress(HarnessError):  # it may have ended, and all on it
                one.close()  # type: ignore[union-attr]
        # only now: until then their threads tell of utilization
        self.hypervisors, self.host, self._started = {}, None, False
        self._images = {kept: image for kept, image in self._images.items() if not kept}
        self.start()
        self.broken = self.broken or self.unusable  # too late to skip what was usable
        for label, factory in self._factories.items():
            if label in self.hypervisors:
                factory.move_to(self.hypervisors[label], self.image(self.hypervisors[label]))
        if self.recorder is not None:
            self.recorder.watch()

    @property
    def hypervisor(self) -> Hypervisor | None:
        """The first, if there is one: what the run is about where it is about one."""
        return next(iter(self.hypervisors.values()), None)

    def target(self, label: str) -> Hypervisor | None:
        """What a test runs on. label: "" for a test that is not told; the only hypervisor may be
        asked for by another name, "auto"."""
        if label == BASELINE:
            return self.hypervisors.get(label)
        return self.hypervisors.get(label, self.hypervisor)

    def need_recorder(self) -> Recorder:
        """The run's recorder, from now on also of host's and guests' utilization. Raises
        ResultError."""
        if self.recorder is None:
            from harness.plugin.recorder import Recorder

            self.recorder = Recorder(self)
            self._note_conditions()
            self.recorder.watch()
        return self.recorder

    def choose_baseline(self) -> None:
        """Before the first test, so that a wrong word is told then. Raises ResultError."""
        if self.settings.baseline:
            from harness.plugin.gate import Gate

            if self.settings.remote is not None:
                self.settings.remote.pull()
            self.gate = Gate.at(self.settings.results, self.settings.baseline)

    def _note_conditions(self) -> None:
        """Tell what makes this host's figures vary."""
        if self.host is None:
            return
        try:
            found = conditions.find_disturbances(self.host.run, self.host.facts, self._load)
        except HarnessError as error:
            found = [f"what makes its figures vary cannot be looked for: {error.cause}"]
        for line in found:
            self.note(f"figures may vary: {line}")

    def note(self, text: str) -> None:
        """Tell it now, and in the summary once more."""
        self.progress(text)
        self.notes.append(text)

    def usage_problem(self) -> str | None:
        """What makes this session a usage error: a hypervisor was named and cannot be used."""
        if self.forbidden:
            return self.forbidden
        if self.unusable is None or not self.settings.explicit:
            return None
        return f"--hypervisor={self.settings.hypervisor} --virt-host={self.settings.host}: " + str(
            self.unusable
        )

    def image(self, hypervisor: Hypervisor) -> GuestImage:
        """What guests of a hypervisor boot, made when it is missing. Raises ImageError."""
        own = hypervisor if isinstance(hypervisor, SupportsOwnImage) else None
        kept = hypervisor.name if own else ""  # all others have one
        if kept not in self._images:
            with self.progress.stage("guest image"):
                self._images[kept] = own.guest_image(self.progress) if own else self._stored_image()
        return self._images[kept]

    def image_digest(self, hypervisor: Hypervisor) -> str:
        """Of what its guests booted; "" if none did so far."""
        kept = hypervisor.name if isinstance(hypervisor, SupportsOwnImage) else ""
        return self._images[kept].digest if kept in self._images else ""

    def _stored_image(self) -> GuestImage:
        from harness.guest.image import select_image

        chosen = self.settings
        return select_image(chosen.image, chosen.kernel, chosen.boot, self.scratch, self.progress)

    def factory(self, hypervisor: Hypervisor) -> GuestFactory:
        """Of a hypervisor's guests: always the same one."""
        if hypervisor.name not in self._factories:
            self._factories[hypervisor.name] = self._factory(hypervisor)
        return self._factories[hypervisor.name]

    def _factory(self, hypervisor: Hypervisor) -> GuestFactory:
        from harness.guest.factory import GuestFactory

        many = len(self.hypervisors) > 1
        own_image = isinstance(hypervisor, SupportsOwnImage)
        # a baseline that nobody named is not what the options for machines were meant for
        unasked = hypervisor.name == BASELINE and BASELINE not in self.settings.targets
        ways = () if unasked else ("boot", "network", "ssh", "root")
        return GuestFactory(
            hypervisor=hypervisor,
            image=self.image(hypervisor),
            vcpus=self.settings.vcpus,
            memory=self.settings.memory,
            boot_timeout=self.settings.boot_timeout,
            prefix=f"{self.prefix}-{hypervisor.name}" if many else self.prefix,
            consoles=self.artifacts,
            on_create=self.made,
            check=(lambda image: None) if own_image else _check_image,
            **{name: getattr(self.settings, name) for name in ways},
        )

    def made(self, guest: BaseGuest) -> None:
        self.guests.append(guest)
        self.used.append(guest)

    # -- the guests' end ---------------------------------------------------------------------

    def release(self, guest: BaseGuest) -> None:
        """A fixture is done with a guest: stop it, or keep it as --guest-keep says.

        Raises GuestEnded when it has ended on its own and no test failed for it yet,
        HarnessError (stage "teardown") when it cannot be stopped.
        """
        if self._spare(guest):
            self.kept.append(guest)
            return
        # A test that failed has told of its guests already.
        unnoticed = guest.ended_unexpectedly and guest not in self.reported | self.failed
        try:
            guest.stop()
        except HarnessError as error:
            self._left(f"guest {guest.name}", error)
            raise
        finally:
            if guest in self.guests:
                self.guests.remove(guest)
            keep = guest in self.failed or unnoticed or self.settings.artifacts is not None
            guest.console.close(discard=not keep)
        if unnoticed:
            self.reported.add(guest)
            raise guest.ended_error("on its own, and no test noticed")

    def _spare(self, guest: BaseGuest) -> TypeGuard[Guest]:
        from harness.guest.guest import Guest

        keep = self.settings.keep
        wanted = keep == "always" or (keep == "failed" and guest in self.failed)
        if not wanted or self._closed or guest in self.kept:
            return False
        if not isinstance(guest, Guest) or guest.ended.is_set() or guest.timeline.next_stage:
            return False  # nothing to log in to
        if self.worker is not None or not can_wait():
            self.notes.append(
                f"guest {guest.name} was not kept: --guest-keep waits at a terminal, "
                "and this session has none"
            )
            return False
        return True

    def replace_dead(self, guest: Guest) -> None:
        """A shared guest is found dead before a test: note it, so that its release is quiet."""
        if guest.ended_unexpectedly and guest not in self.reported:
            self.reported.add(guest)
            self.failed.add(guest)
            self.notes.append(f"replaced before a test: {guest.ended_error()}".splitlines()[0])

    def close(self) -> None:
        """End guests, hypervisor and host. Idempotent.

        Raises what could not be ended: one error, or a group of them.
        """
        if self._closed or not (self._started or self.payloads.started):
            return
        self.kept += [guest for guest in self.guests if self._spare(guest)]
        self._closed = True
        errors: list[Exception] = []

        def attempt(what: str, action: Callable[[], object]) -> None:
            try:
                action()
            except Exception as error:
                errors.append(error)
                self._left(what, error)

        timed = self.progress.stage("teardown") if self.host else contextlib.nullcontext()
        with timed:
            if self.kept:
                from harness.plugin.kept_guests import offer

                attempt("kept guests", lambda: offer(self.kept, self.progress))
                for guest in self.kept:
                    guest.end_expected = True  # however it ended meanwhile, no test is to blame
            for one in list(self.guests):
                attempt(f"guest {one.name}", partial(self.release, one))
            attempt("payload guests", self.payloads.close)
            for label, hypervisor in self.hypervisors.items():
                attempt(f"hypervisor {label}", hypervisor.close)
            if self.host is not None:
                attempt(f"host {self.host.name}", self.host.close)
            if "scratch" in self.__dict__:
                attempt("temporary files", partial(shutil.rmtree, self.scratch))
        if self._sigterm is not None:
            signal.signal(signal.SIGTERM, self._sigterm)
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise ExceptionGroup("left at the session's end", errors)

    def tidy(self) -> None:
        """Remove directories of this run that nothing was left in. The controller's, at the end."""
        if self.worker is None and "run" in self.__dict__:
            for folder in (self.artifacts, self.run_directory, self.settings.results):
                with contextlib.suppress(OSError):  # it has something in it, or was never made
                    folder.rmdir()

    # -- between an xdist worker and its controller --------------------------------------------

    def worker_report(self) -> dict[str, Any]:
        """What a worker tells at its end, as plain data."""
        return {
            "usage": self.usage_problem() or "",
            "notes": self.notes,
            "leaks": self.leaks,
            "outputs": self.outputs,
        }

    def merge_worker_report(self, report: dict[str, Any]) -> None:
        """Take a worker's news."""
        if report["usage"] and report["usage"] not in self.remote_usage:
            self.remote_usage.append(report["usage"])
        self.notes += report["notes"]
        self.leaks += report["leaks"]
        self.outputs += report["outputs"]

    def _left(self, what: str, error: Exception) -> None:
        """A line for the summary, when an error means that something may still be there."""
        if isinstance(error, HarnessError) and error.stage != "teardown":
            return
        cause = error.cause if isinstance(error, HarnessError) else repr(error)
        if (line := f"{what}: {cause}") not in self.leaks:
            self.leaks.append(line)


def _check_image(image: GuestImage) -> None:
    """Before every boot: an image that was damaged meanwhile has a clear error of its own."""
    from images.image import check_in_use

    check_in_use(image)


def can_wait() -> bool:
    """Whether somebody sits at a terminal to wait for."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return not os.environ.get("CI")


def session_of(config: pytest.Config) -> Session:
    return config.stash[KEY]
