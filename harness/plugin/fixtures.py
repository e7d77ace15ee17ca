"""The fixtures that tests see. All of them need `hypervisor`: that is how they are recognised."""

# ruff: noqa: PLC0415 - every pytest run loads the plugin: heavy imports wait for a test in need
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from harness.errors import HarnessError, hide_frames
from harness.hypervisors.capabilities import SupportsPayloads
from harness.plugin.session import Session, session_of

if TYPE_CHECKING:
    from harness.guest.base import BaseGuest
    from harness.guest.factory import GuestFactory
    from harness.guest.guest import Guest
    from harness.guest.guest_ssh import GuestSSH
    from harness.guest.payload import PayloadFactory, PayloadGuest
    from harness.hosts.base import Host
    from harness.hypervisors.base import Hypervisor
    from harness.results.schema import Parameter

__tracebackhide__ = hide_frames


_OF_AN_IMAGE = {"guest", "shared_guest", "guest_factory", "guest_group"}


class RecordSample(Protocol):
    """What the record_sample fixture is."""

    def __call__(
        self,
        metric: str,
        value: float,
        unit: str,
        better: str = "",
        parameters: Mapping[str, Parameter] | None = None,
        *,
        hypervisor: str | None = None,
        boot: int = 0,
        batch: int = 0,
    ) -> None:
        """Keep one measured value.

        better: "lower", "higher" or "". hypervisor: "native" for what was measured on the host
        itself. boot, batch: numbers from 0. Raises ResultError for a value that is no number.
        """


@pytest.fixture(scope="session")
def harness_session(pytestconfig: pytest.Config) -> Iterator[Session]:
    """All that the harness holds, started; closed when no test needs it any more."""
    session = session_of(pytestconfig)
    session.start()
    yield session
    session.close()


@pytest.fixture(scope="session")
def hypervisor(harness_session: Session, request: pytest.FixtureRequest) -> Hypervisor:
    """The session's hypervisor, on the session's host; of several, the one whose turn it is."""
    session = harness_session
    if session.broken is not None:
        raise session.broken
    if problem := session.usage_problem():
        raise pytest.UsageError(problem)
    if session.unusable is not None:
        cause, hint = session.unusable.cause, session.unusable.hint
        pytest.skip(f"no hypervisor is usable here: {cause}" + (f"; hint: {hint}" if hint else ""))
    chosen = session.target(getattr(request, "param", ""))
    if chosen is None:
        pytest.skip(f"no baseline of this host: {session.no_baseline}")
    return chosen


@pytest.fixture(scope="session")
def virt_profile(harness_session: Session) -> str:
    """How much a suite is to measure, "short" or "full": the option --virt-profile."""
    return harness_session.settings.profile


@pytest.fixture(scope="session")
def virt_host(hypervisor: Hypervisor) -> Host:
    """The machine that the hypervisor runs on."""
    return hypervisor.host


@pytest.fixture(scope="session")
def guest_factory(hypervisor: Hypervisor, harness_session: Session) -> GuestFactory:
    """Makes guests: `guest_factory(vcpus=2)` is ready, `guest_factory.launch()` not yet.

    They live until the session's end, or their `stop()`.
    """
    return harness_session.factory(hypervisor)


@pytest.fixture(scope="module")
def shared_guests(request: pytest.FixtureRequest) -> Iterator[dict[str, Guest]]:
    """The module's shared guests by hypervisor: each outlives the others' turns."""
    made: dict[str, Guest] = {}
    yield made
    release_all(session_of(request.config), list(made.values()))


@pytest.fixture(scope="module")
def shared_guest(
    guest_factory: GuestFactory,
    shared_guests: dict[str, Guest],
    request: pytest.FixtureRequest,
) -> Guest:
    """A guest that the module's tests share. One that died is replaced before the next test.

    The module's `pytestmark` may say `guest(vcpus=, memory=)`; a single test's marker cannot.
    """
    name = guest_factory.hypervisor.name
    if name in shared_guests and shared_guests[name].ended.is_set():
        session = session_of(request.config)
        session.replace_dead(shared_guests[name])
        session.release(shared_guests.pop(name))
    if name not in shared_guests:
        marker = request.node.get_closest_marker("guest")
        label = Path(request.node.path).stem
        shared_guests[name] = guest_factory(label, **guest_arguments(marker))
    return shared_guests[name]


@pytest.fixture
def guest(guest_factory: GuestFactory, request: pytest.FixtureRequest) -> Iterator[Guest]:
    """A fresh guest for this test alone, as the marker `guest(vcpus=, memory=)` says."""
    made = guest_factory(
        request.node.name, **guest_arguments(request.node.get_closest_marker("guest"))
    )
    yield made
    session_of(request.config).release(made)


@pytest.fixture
def guest_group(
    guest_factory: GuestFactory, request: pytest.FixtureRequest
) -> Iterator[Callable[..., list[Guest]]]:
    """`guest_group(3, memory=128)`: that many fresh guests, started at the same time: clones of
    one that was booted for them, where the hypervisor makes clones."""
    from harness.guest.factory import wait_ready_or_stop

    session = session_of(request.config)
    made: list[Guest] = []
    common = guest_arguments(request.node.get_closest_marker("guest"))

    def group(count: int, **arguments: Any) -> list[Guest]:
        wanted = {**common, **arguments}
        first = len(made)
        for _ in range(count):
            one = guest_factory.launch_from_template(request.node.name, **wanted)
            made.append(one)  # at once: a later one that fails must not hide this one
        return [wait_ready_or_stop(one) for one in made[first:]]

    yield group
    release_all(session, made)


@pytest.fixture
def payload(request: pytest.FixtureRequest) -> Iterator[PayloadFactory]:
    """Runs flat code as guests: `payload(code, mode="long")`, see PayloadFactory.

    In a test with the fixture `hypervisor`, on that one. Else on this machine's KVM where it may be
    used, even if that runs no stock guest, or where the session's guests run. The marker
    `payload(...)` has arguments for all of a test's.
    """
    session = session_of(request.config)
    runs = _runs_payloads(session, request)
    marker = request.node.get_closest_marker("payload")
    made: list[BaseGuest] = []
    arguments = dict(marker.kwargs) if marker else {}
    factory = session.payloads.factory(runs, request.node.name, arguments)
    note = factory.on_create

    def on_create(guest: PayloadGuest) -> None:
        made.append(guest)
        note(guest)

    factory.on_create = on_create
    yield factory
    release_all(session, made)


def _runs_payloads(session: Session, request: pytest.FixtureRequest) -> SupportsPayloads:
    """What runs the payloads of a test."""
    if "hypervisor" in request.node.fixturenames:
        chosen = request.getfixturevalue("hypervisor")
        if not isinstance(chosen, SupportsPayloads):
            pytest.skip(f"{chosen.name} runs no payload guests")
        return chosen
    payloads = session.payloads
    payloads.start()
    if problem := payloads.usage_problem():
        raise pytest.UsageError(problem)
    if payloads.unusable is not None:
        cause, hint = payloads.unusable.cause, payloads.unusable.hint
        pytest.skip(f"no payload guest can run here: {cause}" + (f"; hint: {hint}" if hint else ""))
    assert payloads.hypervisor is not None  # noqa: S101 - it is usable
    return payloads.hypervisor


@pytest.fixture
def ssh(request: pytest.FixtureRequest, guest_factory: GuestFactory) -> GuestSSH:
    """Commands in the test's guest (`shared_guest` if it has that): `ssh.run(["uname", "-r"])`."""
    name = "shared_guest" if "shared_guest" in request.fixturenames else "guest"
    found: Guest = request.getfixturevalue(name)
    return found.ssh


@pytest.fixture
def record_sample(request: pytest.FixtureRequest) -> RecordSample:
    """Keeps measured values; run, host, image, commit, time and test are filled in."""
    names = request.node.fixturenames
    payloads = "payload" in names and "hypervisor" not in names
    if payloads:
        request.getfixturevalue("payload")
    session = session_of(request.config)
    ran_on = session.payloads.hypervisor if payloads else request.getfixturevalue("hypervisor")
    assert ran_on is not None  # noqa: S101 - the fixture has looked
    recorder = session.need_recorder()
    test = request.node.nodeid
    suite = suite_of(Path(request.node.path))

    def record(
        metric: str,
        value: float,
        unit: str,
        better: str = "",
        parameters: Mapping[str, Parameter] | None = None,
        *,
        hypervisor: str | None = None,
        boot: int = 0,
        batch: int = 0,
    ) -> None:
        recorder.sample(
            metric,
            value,
            unit,
            better,
            parameters,
            ran_on=ran_on,
            imageless="payload" in names and not {*names} & _OF_AN_IMAGE,
            hypervisor=hypervisor,
            suite=suite,
            test=test,
            boot=boot,
            batch=batch,
        )

    return record


def guest_arguments(marker: pytest.Mark | None) -> dict[str, Any]:
    """The arguments of a guest marker. Raises pytest.UsageError for others than it knows."""
    from harness.hypervisors.base import GuestSpec

    if marker is None:
        return {}
    known = {field.name for field in fields(GuestSpec)} - {"name", "image", "disks"}
    unknown = set(marker.kwargs) - known
    if unknown or marker.args:
        raise pytest.UsageError(
            f"the marker guest takes {', '.join(f'{name}=' for name in sorted(known))}, not "
            f"{', '.join([*map(repr, marker.args), *sorted(unknown)])}"
        )
    return dict(marker.kwargs)


def suite_of(path: Path) -> str:
    """The folder below the last "suites" of a test's path; else the folder that it is in."""
    parents = path.parent.parts
    if "suites" in parents:
        below = parents[len(parents) - parents[::-1].index("suites") :]
        return "/".join(below) or path.stem.removeprefix("test_")
    return path.parent.name


def release_all(session: Session, guests: Sequence[BaseGuest]) -> None:
    errors: list[Exception] = []
    for one in guests:
        try:
            session.release(one)
        except HarnessError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ExceptionGroup("guests of a group", errors)
