"""The fixtures that tests see. A test that uses guests depends on the fixture `hypervisor`."""

# ruff: noqa: PLC0415 - every pytest run loads this module, so heavy imports are inside functions
from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Unpack

import pytest

from harness.errors import HarnessError, hide_frames
from harness.hypervisors.capabilities import SupportsPayloads
from harness.plugin.item_usage import figure_identity, uses_fixture, uses_payload_host
from harness.plugin.session import Session, session_of

if TYPE_CHECKING:
    from harness.guest.base import BaseGuest
    from harness.guest.factory import GuestFactory
    from harness.guest.guest import Guest
    from harness.guest.guest_options import GuestOptions
    from harness.guest.guest_ssh import GuestSSH
    from harness.guest.payload import PayloadFactory, PayloadGuest
    from harness.hosts.base import Host
    from harness.hypervisors.base import Hypervisor
    from harness.results.schema import Better, Parameter
    from images.image import GuestImage

__tracebackhide__ = hide_frames

_BOOT_AN_IMAGE = {"guest", "shared_guest", "guest_factory", "guest_group"}


class RecordSample(Protocol):
    """The type of the fixture record_sample."""

    def __call__(
        self,
        metric: str,
        value: float,
        unit: str,
        better: Better,
        parameters: Mapping[str, Parameter] | None = None,
        *,
        hypervisor: str | None = None,
        image: GuestImage | None = None,
        boot: int | None = None,
        batch: int = 0,
    ) -> None:
        """Record one measured value.

        better: "lower", "higher", or "none" for a value that is neither. hypervisor: "native" for
        a value measured on the host itself. image: what the test's guests boot, if it is another
        one than the session's. boot: number from 0; None for the value of the fixture
        `boot`, or 0 without it. batch: number from 0. Raises ResultError for a value that is not a
        finite number.
        """


class GuestGroup(Protocol):
    """The type of the fixture guest_group."""

    def __call__(self, count: int, **options: Unpack[GuestOptions]) -> list[Guest]:
        """`count` ready guests. Raises as GuestFactory does."""


@pytest.fixture(scope="session")
def harness_session(pytestconfig: pytest.Config) -> Iterator[Session]:
    """The plugin's session, started. It ends when no test needs it any more."""
    session = session_of(pytestconfig)
    session.start()
    yield session
    session.close()


@pytest.fixture(scope="session")
def hypervisor(harness_session: Session, request: pytest.FixtureRequest) -> Hypervisor:
    """The hypervisor that the test runs on. With several, the test runs on each."""
    hosts = harness_session.hosts
    if hosts.image_error is not None:
        raise hosts.image_error
    if problem := hosts.usage_problem():
        raise pytest.UsageError(problem)
    if hosts.unusable is not None:
        pytest.skip(f"no hypervisor is usable here: {_cause_and_hint(hosts.unusable)}")
    label = str(getattr(request, "param", ""))
    target = hosts.target(label)
    if target is None:
        pytest.skip(hosts.missing_target(label))
    return target


def _cause_and_hint(error: HarnessError) -> str:
    return error.cause + (f"; hint: {error.hint}" if error.hint else "")


@pytest.fixture(scope="session")
def virt_profile(harness_session: Session) -> str:
    """How much a suite measures, "short" or "full": the option --virt-profile."""
    return harness_session.settings.profile


@pytest.fixture(scope="session")
def virt_host(hypervisor: Hypervisor) -> Host:
    """The machine that the hypervisor runs on."""
    return hypervisor.host


@pytest.fixture
def boot(request: pytest.FixtureRequest) -> int:
    """The number of the present boot, from 0: the test runs once for each, with a fresh guest.

    Statistics are over boots, since values of one boot depend on each other. The marker
    `boots(short=3, full=8)` says how many boots each profile has.
    """
    number: int = request.param
    return number


@pytest.fixture(scope="session")
def guest_factory(hypervisor: Hypervisor, harness_session: Session) -> GuestFactory:
    """Makes guests: `guest_factory(vcpus=2)` is ready, `guest_factory.launch()` does not wait.

    They run until the session ends, or until their `stop()`.
    """
    return harness_session.provisioner.factory(hypervisor)


@pytest.fixture(scope="module")
def shared_guests(request: pytest.FixtureRequest) -> Iterator[dict[str, Guest]]:
    """The module's shared guests by hypervisor. Each runs until the module's last test."""
    guests: dict[str, Guest] = {}
    yield guests
    session_of(request.config).guests.release_all(list(guests.values()))


@pytest.fixture(scope="module")
def shared_guest(
    guest_factory: GuestFactory,
    shared_guests: dict[str, Guest],
    request: pytest.FixtureRequest,
) -> Guest:
    """A guest that the module's tests share. One that ended is replaced before the next test.

    The module's `pytestmark` may say `guest(vcpus=, memory=)`; a test's own marker has no effect.
    """
    name = guest_factory.hypervisor.name
    if name in shared_guests and shared_guests[name].ended.is_set():
        registry = session_of(request.config).guests
        registry.replace_ended(shared_guests[name])
        registry.release(shared_guests.pop(name))
    if name not in shared_guests:
        label = Path(request.node.path).stem
        shared_guests[name] = guest_factory(label, **_marked_options(request))
    return shared_guests[name]


@pytest.fixture
def guest(guest_factory: GuestFactory, request: pytest.FixtureRequest) -> Iterator[Guest]:
    """A fresh guest for this test alone, as the marker `guest(vcpus=, memory=)` says."""
    started = guest_factory(request.node.name, **_marked_options(request))
    yield started
    session_of(request.config).guests.release(started)


@pytest.fixture
def guest_group(
    guest_factory: GuestFactory, request: pytest.FixtureRequest
) -> Iterator[GuestGroup]:
    """`guest_group(3, memory=128)`: fresh guests that start at the same time.

    Where the hypervisor makes clones, they are clones of one guest that boots before them.
    """
    from harness.guest.factory import wait_ready_or_stop

    guests: list[Guest] = []
    common = _marked_options(request)

    def group(count: int, **options: Unpack[GuestOptions]) -> list[Guest]:
        first = len(guests)
        chosen: GuestOptions = {**common, **options}
        for _ in range(count):
            # Each is registered before the next one starts, so that an error loses none.
            guests.append(  # noqa: PERF401
                guest_factory.launch_from_template(request.node.name, **chosen)
            )
        return [wait_ready_or_stop(one) for one in guests[first:]]

    yield group
    session_of(request.config).guests.release_all(guests)


def _marked_options(request: pytest.FixtureRequest) -> GuestOptions:
    """The arguments of the marker guest, which were checked at collection."""
    marker = request.node.get_closest_marker("guest")
    options: Any = dict(marker.kwargs) if marker else {}
    checked: GuestOptions = options
    return checked


@pytest.fixture
def payload(request: pytest.FixtureRequest) -> Iterator[PayloadFactory]:
    """Runs flat code as guests: `payload(code, mode="long")`, see PayloadFactory.

    In a test with the fixture `hypervisor`, on that one. Else on this machine's KVM where it is
    usable, even if that runs no stock guest, or on the host of the session's guests. The marker
    `payload(...)` has arguments for all payloads of a test.
    """
    session = session_of(request.config)
    runs = _payload_hypervisor(session, request)
    marker = request.node.get_closest_marker("payload")
    guests: list[BaseGuest] = []
    arguments = dict(marker.kwargs) if marker else {}
    factory = session.payloads.factory(runs, request.node.name, arguments)
    register = factory.on_create

    def on_create(guest: PayloadGuest) -> None:
        guests.append(guest)
        register(guest)

    factory.on_create = on_create
    yield factory
    session.guests.release_all(guests)


def _payload_hypervisor(session: Session, request: pytest.FixtureRequest) -> SupportsPayloads:
    """What runs the payloads of a test."""
    if uses_fixture(request.node, "hypervisor"):
        own = request.getfixturevalue("hypervisor")
        if not isinstance(own, SupportsPayloads):
            pytest.skip(f"{own.name} runs no payload guests")
        return own
    session.start_payloads()
    payloads = session.payloads
    if problem := payloads.usage_problem():
        raise pytest.UsageError(problem)
    if payloads.unusable is not None:
        pytest.skip(f"no payload guest can run here: {_cause_and_hint(payloads.unusable)}")
    assert payloads.hypervisor is not None  # noqa: S101 - it is not unusable
    return payloads.hypervisor


@pytest.fixture
def ssh(request: pytest.FixtureRequest, guest_factory: GuestFactory) -> GuestSSH:
    """Commands in the test's guest (`shared_guest` if it has that): `ssh.run(["uname", "-r"])`."""
    name = "shared_guest" if "shared_guest" in request.fixturenames else "guest"
    target: Guest = request.getfixturevalue(name)
    return target.ssh


@pytest.fixture
def record_sample(request: pytest.FixtureRequest) -> RecordSample:
    """Records a measured value with its run, host, image, commit, time and test."""
    on_payload_host = uses_payload_host(request.node)
    if on_payload_host:
        request.getfixturevalue("payload")
    session = session_of(request.config)
    ran_on = (
        session.payloads.hypervisor if on_payload_host else request.getfixturevalue("hypervisor")
    )
    assert ran_on is not None  # noqa: S101 - the fixture payload skips without one
    recorder = session.need_recorder()
    # A test's own parameter `boot` need not be a number of boots.
    has_boot = uses_fixture(request.node, "boot")
    present_boot: int = request.getfixturevalue("boot") if has_boot else 0
    boots_image = any(uses_fixture(request.node, name) for name in _BOOT_AN_IMAGE)
    # payload guests boot none
    default_image = "" if uses_fixture(request.node, "payload") and not boots_image else None
    item: str = request.node.nodeid
    identity = cache(partial(figure_identity, request.node))  # by the boot: once, not a sample
    attempt = recorder.attempts.get(item, 1)  # a thread of this attempt may outlive it

    def record(
        metric: str,
        value: float,
        unit: str,
        better: Better,
        parameters: Mapping[str, Parameter] | None = None,
        *,
        hypervisor: str | None = None,
        image: GuestImage | None = None,
        boot: int | None = None,
        batch: int = 0,
    ) -> None:
        suite, test = identity(boot)
        recorder.sample(
            metric,
            value,
            unit,
            better,
            parameters,
            ran_on=ran_on,
            image=image.digest if image else default_image,
            hypervisor=hypervisor,
            suite=suite,
            test=test,
            item=item,
            attempt=attempt,
            boot=present_boot if boot is None else boot,
            batch=batch,
        )

    return record
