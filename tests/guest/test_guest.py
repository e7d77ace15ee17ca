"""A guest's life cycle on a fake machine. tests/plugin covers SSH."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.errors import GuestEnded, HarnessError, ProvisionError, SSHError
from harness.guest.base import describe_end
from harness.guest.devices import PortDevice
from harness.guest.factory import GuestFactory
from harness.guest.guest import Guest
from harness.guest.guest_ssh import GuestSSH
from harness.guest.timeline import CLONE_STAGES
from harness.hypervisors.base import End, Events, GuestSpec
from harness.ssh.process import Stream
from images.image import GuestImage


class FakeHypervisor:
    """A fake Hypervisor that is its own Machine. The test controls its events."""

    name = "fake"
    host: Any = None

    def __init__(self) -> None:
        self.events: Events
        self.facts: Mapping[str, Any] = {"pid": 7}
        self.refusal: HarnessError | None = None

    def create(self, spec: GuestSpec, events: Events) -> FakeHypervisor:
        self.events = events
        if self.refusal:
            events.on_console(1, "cannot open the disk")
            raise self.refusal
        events.on_mark("create", time.monotonic_ns())
        events.on_mark("kernel", time.monotonic_ns())
        return self

    def capabilities(self) -> Mapping[str, int]:
        return {}

    def watch(self, callback: Callable[[int, Mapping[str, float]], None]) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass

    def connect(self, port: int, timeout: float) -> Stream:
        raise ConnectionRefusedError("no server")

    def statistics(self) -> dict[str, int]:
        self.end("vmm-error", "control pipe closed")
        raise HarnessError("the VMM does not answer")

    def stop(self, timeout: float = 5.0) -> None:
        self.end("stopped")

    def end(self, reason: str, detail: str = "") -> None:
        self.events.on_end(End(reason, detail, time.monotonic_ns()))

    def print_console(self, *lines: str) -> None:
        for line in lines:
            self.events.on_console(time.monotonic_ns(), line)


def image(folder: Path) -> GuestImage:
    return GuestImage(
        kernel=folder,
        bzimage=folder,
        initramfs=folder,
        disk=folder,
        digest="d",
        release="r",
        client_key=folder,
        host_key="ssh-ed25519 AAAA",
        packages={},
        folder=folder,
    )


@pytest.fixture
def fake() -> FakeHypervisor:
    return FakeHypervisor()


@pytest.fixture
def guest(fake: FakeHypervisor, tmp_path: Path) -> Guest:
    spec = GuestSpec(name="g1", image=image(tmp_path), boot_timeout=0.3)
    return Guest(fake, spec)


@pytest.mark.parametrize("reason", ["panic", "reset", "power-off", "killed"])
def test_end_has_the_reason_of_the_hypervisor(
    guest: Guest, fake: FakeHypervisor, reason: str
) -> None:
    fake.print_console("[  2.1] Kernel panic - not syncing: VFS: no root")
    fake.end(reason, "detail")
    assert describe_end(guest.end) == f"{reason}: detail"


def test_wait_ready_fails_as_soon_as_the_guest_ends(fake: FakeHypervisor, tmp_path: Path) -> None:
    guest = Guest(fake, GuestSpec(name="g1", image=image(tmp_path), boot_timeout=60))
    fake.print_console("harness: init 1")
    threading.Timer(0.05, fake.end, ["triple-fault"]).start()
    started = time.monotonic()
    with pytest.raises(GuestEnded) as caught:
        guest.wait_ready()
    assert time.monotonic() - started < 5
    assert caught.value.stage == "sshd"
    assert caught.value.console == ("harness: init 1",)


@pytest.mark.parametrize(
    ("lines", "stage"),
    [([], "init"), (["harness: init 1"], "sshd")],
)
def test_error_of_a_late_guest_names_the_stage(
    guest: Guest, fake: FakeHypervisor, lines: list[str], stage: str
) -> None:
    fake.print_console(*lines)
    with pytest.raises(ProvisionError) as caught:
        guest.wait_ready()
    assert caught.value.stage == stage


def test_error_of_create_has_guest_and_console(fake: FakeHypervisor, tmp_path: Path) -> None:
    fake.refusal = ProvisionError("no disk", stage="create")
    with pytest.raises(ProvisionError) as caught:
        Guest(fake, GuestSpec(name="g1", image=image(tmp_path)))
    assert (caught.value.guest, caught.value.console) == ("g1", ("cannot open the disk",))


def test_requests_to_an_ended_guest_raise_its_end(guest: Guest, fake: FakeHypervisor) -> None:
    with pytest.raises(SSHError, match="no SSH connection yet"):
        guest.ssh.run(["true"])
    with pytest.raises(GuestEnded, match=r"vmm-error: control pipe closed .*statistics"):
        guest.statistics()
    with pytest.raises(GuestEnded, match="vmm-error"):
        guest.ssh.run(["true"])
    assert guest.ended_unexpectedly


def test_stop_is_an_expected_end(guest: Guest) -> None:
    guest.stop()
    guest.stop()
    assert not guest.ended_unexpectedly
    assert describe_end(guest.end) == "stopped"


def test_expect_end_raises_the_end_of_another_guest(guest: Guest) -> None:
    with pytest.raises(GuestEnded, match="other"), guest.expect_end(timeout=0.01):
        raise GuestEnded("other", guest="g2")
    assert not guest.end_expected


def test_expect_end_of_a_failing_block_expects_nothing(guest: Guest, fake: FakeHypervisor) -> None:
    with pytest.raises(ZeroDivisionError), guest.expect_end():
        _ = 1 / 0
    fake.end("panic")
    assert guest.ended_unexpectedly


def test_names_are_unique_and_contain_prefix_and_label(
    fake: FakeHypervisor, tmp_path: Path
) -> None:
    checked: list[str] = []
    factory = GuestFactory(
        hypervisor=fake,
        image=image(tmp_path),
        vcpus=1,
        memory=256,
        boot_timeout=1.0,
        prefix="ab12cd-gw3",
        check=lambda used: checked.append(used.digest),
    )
    names = [factory.launch(label).name for label in ("test_it[a/b c]", "", "x" * 99)]
    assert names == ["ab12cd-gw3-0-test-it-a-b-c", "ab12cd-gw3-1", "ab12cd-gw3-2-" + "x" * 24]
    assert checked == ["d"] * 3


class FakeCloner(FakeHypervisor):
    """A fake hypervisor with snapshots and clones."""

    def __init__(self) -> None:
        super().__init__()
        self.host = self
        self.commands: list[str] = []
        self.cloned: list[str] = []
        self.prefaulted: list[Sequence[int]] = []
        self.queried_folders: list[str] = []
        self.dirty_pages: list[int] | str = [5, 2, 9, 1]
        self.disk_full = False

    def run(self, argv: Sequence[str]) -> None:
        self.commands.append(argv[0])

    def scratch(self, mapped: int = 0) -> str:
        return "/scratch"

    def snapshot(self, folder: str) -> int:
        if self.disk_full:
            raise HarnessError("no space left")
        return 4096

    def clone(
        self, folder: str, spec: GuestSpec, events: Events, prefault_pages: Sequence[int] = ()
    ) -> FakeCloner:
        self.events = events
        self.cloned.append(folder)
        self.prefaulted.append(prefault_pages)
        events.on_mark("create", time.monotonic_ns())
        events.on_mark("restored", time.monotonic_ns())
        return self

    def private_dirty_pages(self, folder: str) -> list[int]:
        self.queried_folders.append(folder)
        if isinstance(self.dirty_pages, str):
            raise HarnessError(self.dirty_pages)
        return self.dirty_pages


def spec_of(tmp_path: Path) -> GuestSpec:
    return GuestSpec(name="g1", image=image(tmp_path), boot_timeout=0.3)


def test_clone_connects_only_after_it_adopted_its_identity(tmp_path: Path) -> None:
    cloner = FakeCloner()
    guest = Guest(cloner, spec_of(tmp_path))
    with guest.snapshot() as snapshot:
        clone = Guest(cloner, replace(snapshot.spec, name="g2"), origin=snapshot)
    assert cloner.commands == ["mkdir", "rm"]
    assert cloner.cloned == [snapshot.folder]
    assert clone.facts["cloned_from"] == "g1"
    cloner.print_console("harness: sshd 1")  # a program may print it; clones have no such stage
    with pytest.raises(ProvisionError, match="did not reach 'adopted'"):
        clone.wait_ready()
    cloner.events.on_mark("adopted", time.monotonic_ns())
    assert clone.timeline.next_stage == "ready"
    assert [line.split()[0] for line in clone.timeline.lines()] == list(CLONE_STAGES)


def test_first_clone_with_dirty_pages_defines_the_prefaulted_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GuestSSH, "connect", lambda self, timeout: None)
    cloner = FakeCloner()
    snapshot = Guest(cloner, spec_of(tmp_path)).snapshot()

    def clone() -> Guest:
        guest = Guest(cloner, snapshot.spec, origin=snapshot)
        cloner.events.on_mark("adopted", time.monotonic_ns())
        return guest

    together = clone(), clone()
    cloner.dirty_pages = "permission denied"
    facts = [guest.wait_ready().facts for guest in together]
    assert [one["prefault_pages"] for one in facts] == [0, 0]
    refused = clone().wait_ready()
    assert refused.facts["prefault_blocker"] == "permission denied"
    cloner.dirty_pages = [5, 2, 9, 1]
    assert clone().wait_ready().facts["prefault_pages"] == 0
    assert clone().wait_ready().facts["prefault_pages"] == 3
    assert cloner.prefaulted == [(), (), (), (), [5, 2, 9, 1]]
    assert cloner.queried_folders == [snapshot.folder] * 4, "the last clone is not queried"


def test_clone_of_an_unsuitable_guest_is_refused(tmp_path: Path) -> None:
    cloner = FakeCloner()
    spec = spec_of(tmp_path)
    make = GuestFactory(cloner, spec.image, 1, 128, 1.0, "g")
    with (
        Guest(cloner, spec).snapshot() as snapshot,
        pytest.raises(ProvisionError, match=r"guest g1 cannot be cloned: it has no vsock"),
    ):
        make.clone(snapshot)
    guest = Guest(cloner, spec)
    guest.spec = replace(spec, devices=(PortDevice(),))
    with (
        guest.snapshot() as snapshot,
        pytest.raises(ProvisionError, match=r"it has devices that a test emulates"),
    ):
        make.clone(snapshot)
    assert not cloner.cloned


def test_failed_snapshot_leaves_no_files(tmp_path: Path) -> None:
    cloner = FakeCloner()
    cloner.disk_full = True
    with pytest.raises(HarnessError, match="no space"):
        Guest(cloner, spec_of(tmp_path)).snapshot()
    assert cloner.commands == ["mkdir", "rm"]


def test_snapshot_without_support_is_an_error(guest: Guest) -> None:
    with pytest.raises(HarnessError, match="fake has no snapshots") as caught:
        guest.snapshot()
    assert "--hypervisor=kvm" in caught.value.hint
