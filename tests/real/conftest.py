"""Real guests on the session's one emulated host, for the tests and for pytest sessions in them."""

from __future__ import annotations

import importlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from harness.guest.factory import GuestFactory
from harness.guest.guest import Guest
from harness.hosts.base import Host
from harness.hosts.emulated import EmulatedHost
from harness.hypervisors.base import Hypervisor
from harness.hypervisors.kvm import KvmHypervisor
from harness.plugin import pytest_compat, rerun
from harness.plugin.session import session_of
from images import store
from images.image import GuestImage
from suites.consolidation.deployment import Deployment, split_cpus
from suites.consolidation.experiment import Experiment, Phases
from suites.consolidation.generator import LoadGenerator
from suites.consolidation.target import Schedule
from suites.consolidation.tile import Tile, load_tile
from tests.conftest import HOSTS, EmulatedHosts

# pytester unloads modules that its inner run imports, but numpy cannot be imported twice.
for module in (
    "harness.plugin.kept_guests",
    "harness.plugin.recorder",
    "reports.run",
    "reports.terminal",
):
    importlib.import_module(module)

CACHE_HOME = store.default_cache().parents[1]  # before pytester gives the tests another HOME
MEMORY = 128  # MiB: several guests at once fit into the host
PHASES = Phases(settle=0, idle=0.5, warm_up=False, schedule=Schedule(ramp=0.5, measure=4, drain=2))
_numbers = itertools.count()

Inner = Callable[..., pytest.RunResult]

# Lists the processes of a host that have KVM open: pid, program, target of the descriptor. It
# omits init: prepare_host() in images/guest/host.c holds a machine that never runs.
HOLDERS = """
import json, os
holders = []
for pid in set(filter(str.isdigit, os.listdir("/proc"))) - {"1"}:
    try:
        program = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
        for fd in os.listdir(f"/proc/{pid}/fd"):
            target = os.readlink(f"/proc/{pid}/fd/{fd}")
            if "kvm" in target:
                holders.append([int(pid), program, target])
    except OSError:
        continue
print(json.dumps(holders))
"""


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a test again, on a new emulated host, after a fault of QEMU.

    pytest calls this for all tests of the session, also for those of other folders.
    """
    if "emulated_host" not in getattr(item, "fixturenames", ()):
        return None

    def close_host() -> None:
        try:
            pytest_compat.teardown(item.session, None)
        except Exception as error:  # the processes on the host ended with it
            session_of(item.config).progress(f"{item.nodeid}: the old host did not close: {error}")

    return rerun.protocol(item, nextitem, lambda: item.config.stash.get(HOSTS, None), close_host)


class BorrowedHost:
    """The emulated host for an inner session, which cannot close or replace it."""

    needs_replacement = False
    replacement_reason = ""

    def __init__(self, host: Host) -> None:
        self._host = host

    def __getattr__(self, name: str) -> Any:
        return getattr(self._host, name)

    def close(self) -> None:
        """Do nothing: the outer session closes the host."""


def factory(
    hypervisor: Hypervisor, image: GuestImage, on_create: Callable[[Guest], None]
) -> GuestFactory:
    """A factory of small guests with unique names."""
    return GuestFactory(
        hypervisor=hypervisor,
        image=image,
        vcpus=1,
        memory=MEMORY,
        boot_timeout=180.0,
        prefix=f"real-{next(_numbers)}",
        on_create=on_create,
    )


def kvm_holders(host: Host) -> set[tuple[int, str]]:
    """Pid and program of every process on the host that has a virtual machine of KVM open."""
    done = host.run(["python3", "-I", "-S", "-c", HOLDERS])
    holders = json.loads(done.stdout)
    # init holds one that never runs (prepare_host() in images/guest/host.c)
    return {(pid, program) for pid, program, target in holders if "kvm-vm" in target and pid != 1}


def kvm_pids(host: Host) -> set[int]:
    return {pid for pid, _ in kvm_holders(host)}


@pytest.fixture(scope="session")
def image() -> GuestImage:
    """The image that guests boot."""
    return store.guest_image(lambda text: None, CACHE_HOME / "pytest-hypervisor" / "images")


@pytest.fixture(scope="session")
def workload_image() -> GuestImage:
    """The image with servers, which is built when the first test needs it."""
    return store.workload_image(lambda text: None, CACHE_HOME / "pytest-hypervisor" / "images")


@pytest.fixture(scope="module")
def kvm(emulated_hosts: EmulatedHosts, emulated_host: EmulatedHost) -> KvmHypervisor:
    """The built-in VMM on the emulated host."""

    def make() -> KvmHypervisor:
        return KvmHypervisor(emulated_host, lambda text: None)

    return emulated_hosts.keep("kvm", make, KvmHypervisor.close)


@pytest.fixture
def guests(kvm: KvmHypervisor, image: GuestImage) -> Iterator[GuestFactory]:
    """Creates guests that stop at the end of the test."""
    created: list[Guest] = []
    yield factory(kvm, image, created.append)
    for guest in created:
        guest.stop()


@pytest.fixture(scope="module")
def real_guest(emulated_hosts: EmulatedHosts, kvm: KvmHypervisor, image: GuestImage) -> Guest:
    """One guest (2 vCPUs, 256 MiB) for all tests that do not change it."""

    def make() -> Guest:
        return factory(kvm, image, lambda guest: None)("shared", vcpus=2, memory=256)

    return emulated_hosts.keep("shared guest", make, Guest.stop)


class MakeExperiment(Protocol):
    """The type of the fixture experiment."""

    def __call__(
        self,
        guests: Mapping[str, Mapping[str, Any]],
        hypervisor: Hypervisor | None = None,
        *,
        cpus: Sequence[int] = (),
        on_create: Callable[[Guest], None] = lambda guest: None,
    ) -> Experiment:
        """An experiment with a tile of these guests, without a warm-up.

        hypervisor: the built-in VMM by default. cpus: of the guests. on_create: called with each
        guest.
        """


def _tile(path: Path, guests: Mapping[str, Mapping[str, Any]]) -> Tile:
    lines = ['name = "own"', "version = 1"]
    for name, values in guests.items():
        lines += [f"[guest.{name}]", *(f"{key} = {value!r}" for key, value in values.items())]
    path.write_text("\n".join(lines).replace("'", '"'))
    return load_tile(path, "emulated")


@pytest.fixture
def experiment(
    kvm: KvmHypervisor,
    image: GuestImage,
    workload_image: GuestImage,
    emulated_host: Host,
    tmp_path: Path,
) -> Iterator[MakeExperiment]:
    """Makes experiments with real guests, and checks that they leave none behind."""
    before = kvm_pids(emulated_host)
    created: list[Guest] = []
    guest_cpus, generator_cpus = split_cpus(emulated_host.facts)

    with ExitStack() as stack:

        @stack.callback
        def stop_all() -> None:
            for guest in created:
                guest.stop()

        def make(
            guests: Mapping[str, Mapping[str, Any]],
            hypervisor: Hypervisor | None = None,
            *,
            cpus: Sequence[int] = (),
            on_create: Callable[[Guest], None] = lambda guest: None,
        ) -> Experiment:
            def add(guest: Guest) -> None:
                created.append(guest)
                on_create(guest)

            own = factory(hypervisor or kvm, image, add)
            generator = stack.enter_context(LoadGenerator(own, workload_image, generator_cpus))
            tile = _tile(tmp_path / "tile.toml", guests)
            deployment = Deployment(own, workload_image, tile, cpus or guest_cpus, None)
            stack.callback(deployment.close)
            return Experiment(deployment, generator, PHASES, 1, print, tmp_path / "histograms")

        yield make
    assert kvm_pids(emulated_host) == before


@pytest.fixture
def bare(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Inner:
    """`bare(source, *arguments)`: a pytest session in this process, which chooses its hosts."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(CACHE_HOME))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(pytester.path / "run"))
    monkeypatch.setenv("CI", "true")  # the inner session has no terminal
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def go(source: str, *arguments: str) -> pytest.RunResult:
        if source:
            pytester.makepyfile(source)
        # Hypothesis takes a second at the end of every inner run; rewriting is not possible
        plain = ["-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
        plain += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
        return pytester.runpytest_inprocess(*plain, *arguments)

    return go


@pytest.fixture
def inner(bare: Inner, emulated_host: Host, monkeypatch: pytest.MonkeyPatch) -> Inner:
    """`inner(source, *arguments, hypervisor="kvm")`: a session on the test's emulated host."""
    borrowed_host = BorrowedHost(emulated_host)
    monkeypatch.setattr("harness.hosts.select.select_host", lambda name, progress: borrowed_host)

    def go(source: str, *arguments: str, hypervisor: str = "kvm") -> pytest.RunResult:
        before = kvm_pids(emulated_host)
        result = bare(source, f"--hypervisor={hypervisor}", f"--guest-memory={MEMORY}", *arguments)
        assert kvm_pids(emulated_host) == before, "the session left a guest"
        return result

    return go


@pytest.fixture
def image_copy(image: GuestImage, tmp_path: Path) -> Path:
    """A store with the same image, which a test may damage: links to the files in a new folder."""
    keys = tmp_path / "store" / "keys"
    keys.parent.mkdir()
    keys.symlink_to(image.client_key.parent)
    folder = keys.parent / image.folder.name
    folder.mkdir()
    for path in image.folder.iterdir():
        (folder / path.name).symlink_to(path)
    return folder
