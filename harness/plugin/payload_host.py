"""What runs a session's payload guests: this machine's KVM, even one that runs no stock guests."""

# ruff: noqa: PLC0415 - every pytest run loads this module, so heavy imports are inside functions
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError, HostError
from harness.plugin.context import RunContext
from harness.plugin.host_manager import HostManager

if TYPE_CHECKING:
    from harness.guest.payload import PayloadFactory, PayloadGuest
    from harness.hosts.base import Host
    from harness.hypervisors.base import Hypervisor
    from harness.hypervisors.capabilities import SupportsPayloads
    from harness.hypervisors.kvm import KvmHypervisor


class PayloadHost:
    """The built-in VMM for payload guests. Nothing starts before start().

    on_guest: called with every payload guest that a factory starts.

    Attributes:
        hypervisor: the session's own one, where that runs payloads, else one on this machine's KVM;
            None before start(), and when there is none.
        unusable: why there is none.
    """

    def __init__(
        self, context: RunContext, hosts: HostManager, on_guest: Callable[[PayloadGuest], None]
    ) -> None:
        self._context = context
        self._hosts = hosts
        self._on_guest = on_guest
        self._numbers = itertools.count()
        self._own_host: Host | None = None
        self.started = False
        self.hypervisor: KvmHypervisor | None = None
        self.unusable: HarnessError | None = None

    def start(self) -> None:
        """Choose or start a hypervisor, once. See `unusable` for failures."""
        if self.started:
            return
        self.started = True
        try:
            self.hypervisor = self._choose()
        except HarnessError as error:
            self.unusable = error

    def _choose(self) -> KvmHypervisor:
        from harness.hosts.probe import probe_local, probe_payloads
        from harness.hypervisors.kvm import KvmHypervisor

        settings = self._context.settings
        if not {"auto", "kvm"} & set(settings.hypervisors):
            raise HarnessError(
                f"payload guests run on the built-in VMM, not on {settings.hypervisor}",
                hint="run them without --hypervisor",
            )
        if settings.host in ("auto", "local") and not probe_local().usable:
            lack = probe_payloads()
            if lack is None:
                from harness.hosts.local import LocalHost

                self._own_host = LocalHost("this machine's KVM runs payload guests")
                return KvmHypervisor(self._own_host, self._context.progress)
            if settings.host == "local":
                raise HostError(lack.cause, hint=lack.hint, stage="host")
        hosts = self._hosts
        hosts.start()
        for hypervisor in hosts.hypervisors.values():
            if isinstance(hypervisor, KvmHypervisor):
                return hypervisor
        missing = HostError("the session has no hypervisor", stage="host")
        raise hosts.unusable or hosts.image_error or missing

    def forget(self, closed: Iterable[Hypervisor]) -> None:
        """Forget a hypervisor that the session closes. start() then chooses another one."""
        if any(hypervisor is self.hypervisor for hypervisor in closed):
            self.started, self.hypervisor = False, None

    def usage_problem(self) -> str | None:
        """Why a session with payload tests is a usage error: a host was named that has no KVM for
        them. None when it is none."""
        settings = self._context.settings
        if not isinstance(self.unusable, HostError) or not settings.explicit:
            return None
        return f"--hypervisor={settings.hypervisor} --virt-host={settings.host}: {self.unusable}"

    def factory(
        self, hypervisor: SupportsPayloads, label: str, arguments: dict[str, Any]
    ) -> PayloadFactory:
        """A factory of payload guests.

        hypervisor: this object's, or one of the session's. label: ends the guests' names.
        arguments: defaults of harness.guest.payload.build_spec.
        """
        from harness.guest.payload import PayloadFactory

        return PayloadFactory(
            hypervisor=hypervisor,
            prefix=self._context.prefix,
            numbers=self._numbers,
            label=label,
            consoles=self._context.artifacts,
            on_create=self._on_guest,
            arguments=arguments,
        )

    def close(self) -> None:
        """End the host that start() started here. Raises HarnessError (stage "teardown")."""
        if self._own_host is None:
            return
        try:
            if self.hypervisor is not None:
                self.hypervisor.close()
        finally:
            self._own_host.close()
