"""Where a session's payload guests run: this machine's KVM, though it run no stock guests."""

# ruff: noqa: PLC0415 - every pytest run loads the plugin: heavy imports wait for a test in need
from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError, HostError

if TYPE_CHECKING:
    from harness.guest.payload import PayloadFactory
    from harness.hosts.base import Host
    from harness.hypervisors.base import Hypervisor
    from harness.hypervisors.capabilities import SupportsPayloads
    from harness.hypervisors.kvm import KvmHypervisor
    from harness.plugin.session import Session


class Payloads:
    """What runs a session's payload guests. Nothing starts before `start`.

    Attributes:
        hypervisor: what runs them: the session's own where that can; None before `start`, or when
            there is none. unusable: why there is none.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._numbers = itertools.count()
        self._host: Host | None = None  # of our own, not the session's
        self.started = False
        self.hypervisor: KvmHypervisor | None = None
        self.unusable: HarnessError | None = None

    def start(self) -> None:
        """Take a hypervisor. Never raises HarnessError: see unusable."""
        if self.started:
            return
        self.started = True
        self._session.end_on_sigterm()
        try:
            self.hypervisor = self._take()
        except HarnessError as error:
            self.unusable = error

    def _take(self) -> KvmHypervisor:
        from harness.hosts.probe import probe_local, probe_payloads
        from harness.hypervisors.kvm import KvmHypervisor

        session, settings = self._session, self._session.settings
        if not {"auto", "kvm"} & set(settings.hypervisors):
            raise HarnessError(
                f"payload guests run on the built-in VMM, not on {settings.hypervisor}",
                hint="run them without --hypervisor",
            )
        if settings.host in ("auto", "local") and not probe_local().usable:
            lack = probe_payloads()
            if lack is None:
                from harness.hosts.local import LocalHost

                self._host = LocalHost("this machine's KVM runs payload guests")
                return KvmHypervisor(self._host, session.progress)
            if settings.host == "local":
                raise HostError(lack.cause, hint=lack.hint, stage="host")
        session.start()
        for hypervisor in session.hypervisors.values():
            if isinstance(hypervisor, KvmHypervisor):
                return hypervisor
        none = HostError("the session has no hypervisor", stage="host")
        raise session.unusable or session.broken or none

    def forget(self, gone: Iterable[Hypervisor]) -> None:
        """Of the session's hypervisors, which are closed: start() takes another one."""
        if any(one is self.hypervisor for one in gone):
            self.started, self.hypervisor = False, None

    def usage_problem(self) -> str | None:
        """What makes a session with payload tests a usage error: a host was named and has no KVM
        for them."""
        settings = self._session.settings
        if not isinstance(self.unusable, HostError) or not settings.explicit:
            return None
        return f"--hypervisor={settings.hypervisor} --virt-host={settings.host}: {self.unusable}"

    def factory(
        self, hypervisor: SupportsPayloads, label: str, arguments: dict[str, Any]
    ) -> PayloadFactory:
        """hypervisor: ours, or one of the session's."""
        from harness.guest.payload import PayloadFactory

        return PayloadFactory(
            hypervisor=hypervisor,
            prefix=self._session.prefix,
            numbers=self._numbers,
            label=label,
            consoles=self._session.artifacts,
            on_create=self._session.made,
            arguments=arguments,
        )

    def close(self) -> None:
        """End what is our own. Raises HarnessError (stage "teardown")."""
        if self._host is None:
            return
        try:
            if self.hypervisor is not None:
                self.hypervisor.close()
        finally:
            self._host.close()
