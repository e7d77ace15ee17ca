"""The session's host and the hypervisors on it: chosen, started, replaced, closed."""

# ruff: noqa: PLC0415 - every pytest run loads this module, so heavy imports are inside functions
from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from harness.errors import HarnessError, HostError, ImageError
from harness.hypervisors import registry
from harness.hypervisors.capabilities import needs_kvm
from harness.plugin.context import RunContext

if TYPE_CHECKING:
    from harness.hosts.base import Host
    from harness.hypervisors.base import Hypervisor, HypervisorFactory

NATIVE = "native"  # the hypervisor that others are compared with


class HostManager:
    """The session's host with its hypervisors. Nothing starts before start().

    Attributes:
        host: None before start(), and when no hypervisor is usable.
        hypervisors: what the guests run on, by label. All are on `host`.
        wants_native: whether a test also runs on NATIVE although no option names it.
        native_error: why NATIVE is not available then.
        unusable: why no hypervisor is usable.
        image_error: why the host's image is not available. Every test with a guest fails by it.
        usage_error: an error of the command line that a worker found, the first one; see
            add_usage_error(). No host starts then.
    """

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self.host: Host | None = None
        self.hypervisors: dict[str, Hypervisor] = {}
        self.wants_native = False
        self.native_error: HarnessError | None = None
        self.unusable: HarnessError | None = None
        self.image_error: HarnessError | None = None
        self.usage_error = ""
        self.started = False

    def add_usage_error(self, problem: str) -> None:
        """Report an error of the command line. The first one counts."""
        self.usage_error = self.usage_error or problem

    def start(self) -> None:
        """Start a host and its hypervisors, once. See `unusable` and `image_error` for failures."""
        if self.started or self.usage_error:
            return
        self.started = True
        try:
            self._start()
        except ImageError as error:
            self.image_error = error
        except HarnessError as error:
            self.unusable = error

    def _start(self) -> None:
        settings = self._context.settings
        if settings.hypervisors != ("auto",):
            targets = settings.targets.items()
            self._start_all({label: registry.load(name) for label, name in targets})
            return
        errors: list[HostError] = []
        for name in registry.AUTO:
            try:
                self._start_all({name: registry.load(name)})
                return
            except HostError as error:
                errors.append(error)
        if len(errors) == 1:
            raise errors[0]
        causes = "; ".join(error.cause for error in errors)
        hints = "; or ".join(error.hint for error in errors if error.hint)
        raise HostError(causes, hint=hints, stage="host")

    def _start_all(self, factories: dict[str, HypervisorFactory]) -> None:
        """Start one host and every hypervisor on it, or nothing."""
        progress = self._context.progress
        with progress.stage("host"):
            host = self._select_host(factories)
        with contextlib.ExitStack() as undo:
            undo.callback(host.close)
            hypervisors: dict[str, Hypervisor] = {}
            with progress.stage("hypervisor"):
                for label, factory in factories.items():
                    hypervisors[label] = factory(host, progress)
                    undo.callback(hypervisors[label].close)
                    hypervisors[label].name = label
                if self.wants_native:
                    try:
                        hypervisors[NATIVE] = registry.load(NATIVE)(host, progress)
                    except HarnessError as error:
                        self.native_error = error
            undo.pop_all()
        self.host, self.hypervisors = host, hypervisors
        facts = host.facts
        progress(
            f"{', '.join(hypervisors)} on host {host.name}: backend {facts.backend}, "
            f"{facts.cpus} x {facts.cpu_model}, kernel {facts.kernel}, "
            f"governor {facts.governor or 'none'}, SMT {facts.smt or 'unknown'}"
        )

    def _select_host(self, factories: dict[str, HypervisorFactory]) -> Host:
        settings = self._context.settings
        kvm = any(map(needs_kvm, factories.values()))
        if kvm or settings.host not in ("auto", "local"):
            from harness.hosts.select import select_host

            return select_host(settings.host, self._context.progress)
        from harness.hosts.local import LocalHost

        return LocalHost(f"{settings.hypervisor} needs no KVM")

    @property
    def hypervisor(self) -> Hypervisor | None:
        """The first hypervisor: a run that reports only one reports this."""
        return next(iter(self.hypervisors.values()), None)

    def target(self, label: str) -> Hypervisor | None:
        """The hypervisor of a test; None when the session does not have it.

        label: "" for a test that no target was chosen for. The first hypervisor also has the name
        "auto".
        """
        return self.hypervisor if label in ("", "auto") else self.hypervisors.get(label)

    def missing_target(self, label: str) -> str:
        """Why the session does not have the hypervisor of a test."""
        if label == NATIVE and self.native_error is not None:
            return f"this host runs no native guests: {self.native_error}"
        return f"the session runs on {', '.join(self.hypervisors)}, not on {label}"

    @property
    def host_needs_replacement(self) -> bool:
        """Whether the host itself asks for a replacement (an emulated host after many boots)."""
        return self.host is not None and self.host.needs_replacement

    def replace(self) -> None:
        """Close host and hypervisors, and start others of the same kind. As start()."""
        self._context.progress(
            "The emulated host must be replaced before the next test. Another one starts now."
        )
        for closable in (*self.hypervisors.values(), self.host):
            with contextlib.suppress(HarnessError):  # the host may have ended with all on it
                closable.close()  # type: ignore[union-attr]
        # Their threads report utilization until they are closed, so they are forgotten only now.
        self.hypervisors, self.host, self.started = {}, None, False
        self.start()
        # It is too late to skip: tests ran on the host before this one.
        self.image_error = self.image_error or self.unusable

    def usage_problem(self) -> str | None:
        """Why this session is a usage error: a hypervisor or host was named and is not usable."""
        if self.usage_error:
            return self.usage_error
        settings = self._context.settings
        if self.unusable is None or not settings.explicit:
            return None
        return f"--hypervisor={settings.hypervisor} --virt-host={settings.host}: {self.unusable}"

    def close(self, attempt: Callable[[str, Callable[[], object]], None]) -> None:
        """Close hypervisors and host.

        attempt: called with the name of each and its close(); it collects the errors.
        """
        for label, hypervisor in self.hypervisors.items():
            attempt(f"hypervisor {label}", hypervisor.close)
        if self.host is not None:
            attempt(f"host {self.host.name}", self.host.close)
