"""A guest's life, told by a machine that does what the test says. SSH is in tests/plugin."""

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


class Puppet:
    """A Hypervisor and the one Machine that it makes."""

    name = "puppet"
    host: Any = None

    def __init__(self) -> None:
        self.events: Events
        self.facts: Mapping[str, Any] = {"pid": 7}
        self.refusal: HarnessError | None = None

    def create(self, spec: GuestSpec, events: Events) -> Puppet:
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
        raise ConnectionRefusedError("nobody")

    def statistics(self) -> dict[str, int]:
        self.end("vmm-error", "control pipe closed")
        raise HarnessError("the VMM does not answer")

    def stop(self, timeout: float = 5.0) -> None:
        self.end("stopped")

    def end(self, reason: str, detail: str = "") -> None:
        self.events.on_end(End(reason, detail, time.monotonic_ns()))

    def say(self, *lines: str) -> None:
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
def puppet() -> Puppet:
    return Puppet()


@pytest.fixture
def guest(puppet: Puppet, tmp_path: Path) -> Guest:
    spec = GuestSpec(name="g1", image=image(tmp_path), boot_timeout=0.3)
    return Guest(puppet, spec)


@pytest.mark.parametrize("reason", ["panic", "reset", "power-off", "killed"])
def test_the_hypervisor_says_how_it_ended(guest: Guest, puppet: Puppet, reason: str) -> None:
    puppet.say("[  2.1] Kernel panic - not syncing: VFS: no root")
    puppet.end(reason, "why")
    assert describe_end(guest.end) == f"{reason}: why"


def test_waiting_ends_at_once_with_the_guest(puppet: Puppet, tmp_path: Path) -> None:
    guest = Guest(puppet, GuestSpec(name="g1", image=image(tmp_path), boot_timeout=60))
    puppet.say("harness: init 1")
    threading.Timer(0.05, puppet.end, ["triple-fault"]).start()
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
def test_a_late_guest_names_the_stage_it_did_not_reach(
    guest: Guest, puppet: Puppet, lines: list[str], stage: str
) -> None:
    puppet.say(*lines)
    with pytest.raises(ProvisionError) as caught:
        guest.wait_ready()
    assert caught.value.stage == stage


def test_a_refusal_carries_the_guest_s_name_and_console(puppet: Puppet, tmp_path: Path) -> None:
    puppet.refusal = ProvisionError("no disk", stage="create")
    with pytest.raises(ProvisionError) as caught:
        Guest(puppet, GuestSpec(name="g1", image=image(tmp_path)))
    assert (caught.value.guest, caught.value.console) == ("g1", ("cannot open the disk",))


def test_what_needs_a_living_guest_says_how_it_ended(guest: Guest, puppet: Puppet) -> None:
    with pytest.raises(SSHError, match="no SSH connection yet"):
        guest.ssh.run(["true"])
    with pytest.raises(GuestEnded, match=r"vmm-error: control pipe closed .*statistics"):
        guest.statistics()
    with pytest.raises(GuestEnded, match="vmm-error"):
        guest.ssh.run(["true"])
    assert guest.ended_unexpectedly


def test_stopping_is_no_unexpected_end(guest: Guest) -> None:
    guest.stop()
    guest.stop()
    assert not guest.ended_unexpectedly
    assert describe_end(guest.end) == "stopped"


def test_an_end_of_another_guest_is_not_the_expected_one(guest: Guest) -> None:
    with pytest.raises(GuestEnded, match="other"), guest.expect_end(timeout=0.01):
        raise GuestEnded("other", guest="g2")
    assert not guest.end_expected


def test_a_failing_block_expects_no_longer(guest: Guest, puppet: Puppet) -> None:
    with pytest.raises(ZeroDivisionError), guest.expect_end():
        _ = 1 / 0
    puppet.end("panic")
    assert guest.ended_unexpectedly


def test_names_differ_and_carry_prefix_and_label(puppet: Puppet, tmp_path: Path) -> None:
    checked: list[str] = []
    factory = GuestFactory(
        hypervisor=puppet,
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


class Cloner(Puppet):
    """A Puppet that has snapshots, too."""

    def __init__(self) -> None:
        super().__init__()
        self.host = self
        self.commands: list[str] = []
        self.cloned: list[str] = []
        self.given: list[Sequence[int]] = []
        self.asked: list[str] = []
        self.told: list[int] | str = [5, 2, 9, 1]
        self.full = False

    def run(self, argv: Sequence[str]) -> None:
        self.commands.append(argv[0])

    def scratch(self, mapped: int = 0) -> str:
        return "/scratch"

    def snapshot(self, folder: str) -> int:
        if self.full:
            raise HarnessError("no space left")
        return 4096

    def clone(
        self, folder: str, spec: GuestSpec, events: Events, prefault_pages: Sequence[int] = ()
    ) -> Cloner:
        self.events = events
        self.cloned.append(folder)
        self.given.append(prefault_pages)
        events.on_mark("create", time.monotonic_ns())
        events.on_mark("restored", time.monotonic_ns())
        return self

    def private_dirty_pages(self, folder: str) -> list[int]:
        self.asked.append(folder)
        if isinstance(self.told, str):
            raise HarnessError(self.told)
        return self.told


def ordered(tmp_path: Path) -> GuestSpec:
    return GuestSpec(name="g1", image=image(tmp_path), boot_timeout=0.3)


def test_a_clone_is_asked_only_when_it_has_its_own_identity(tmp_path: Path) -> None:
    cloner = Cloner()
    guest = Guest(cloner, ordered(tmp_path))
    with guest.snapshot() as taken:
        clone = Guest(cloner, replace(taken.spec, name="g2"), origin=taken)
    assert cloner.commands == ["mkdir", "rm"]
    assert cloner.cloned == [taken.folder]
    assert clone.facts["cloned_from"] == "g1"
    cloner.say("harness: sshd 1")  # a program may print that: it is no stage of a clone's
    with pytest.raises(ProvisionError, match="did not reach 'adopted'"):
        clone.wait_ready()
    cloner.events.on_mark("adopted", time.monotonic_ns())
    assert clone.timeline.next_stage == "ready"
    assert [line.split()[0] for line in clone.timeline.lines()] == list(CLONE_STAGES)


def test_the_first_clone_that_can_tells_what_the_next_ones_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GuestSSH, "connect", lambda self, timeout: None)
    cloner = Cloner()
    taken = Guest(cloner, ordered(tmp_path)).snapshot()

    def clone() -> Guest:
        made = Guest(cloner, taken.spec, origin=taken)
        cloner.events.on_mark("adopted", time.monotonic_ns())
        return made

    together = clone(), clone()
    cloner.told = "no right to look"
    facts = [made.wait_ready().facts for made in together]
    assert [one["prefault_pages"] for one in facts] == [0, 0]
    refused = clone().wait_ready()
    assert refused.facts["prefault_blocker"] == "no right to look"
    cloner.told = [5, 2, 9, 1]
    assert clone().wait_ready().facts["prefault_pages"] == 0
    assert clone().wait_ready().facts["prefault_pages"] == 3
    assert cloner.given == [(), (), (), (), [5, 2, 9, 1]]
    assert cloner.asked == [taken.folder] * 4, "it is known by then"


def test_guests_that_cannot_be_cloned_are_refused(tmp_path: Path) -> None:
    cloner = Cloner()
    spec = ordered(tmp_path)
    make = GuestFactory(cloner, spec.image, 1, 128, 1.0, "g")
    with (
        Guest(cloner, spec).snapshot() as taken,
        pytest.raises(ProvisionError, match=r"guest g1 cannot be cloned: it has no vsock"),
    ):
        make.clone(taken)
    guest = Guest(cloner, spec)
    guest.spec = replace(spec, devices=(PortDevice(),))
    with (
        guest.snapshot() as taken,
        pytest.raises(ProvisionError, match=r"it has devices of a test's own"),
    ):
        make.clone(taken)
    assert not cloner.cloned


def test_a_snapshot_that_fails_leaves_no_files(tmp_path: Path) -> None:
    cloner = Cloner()
    cloner.full = True
    with pytest.raises(HarnessError, match="no space"):
        Guest(cloner, ordered(tmp_path)).snapshot()
    assert cloner.commands == ["mkdir", "rm"]


def test_a_hypervisor_without_snapshots_says_so(guest: Guest) -> None:
    with pytest.raises(HarnessError, match="puppet has no snapshots") as caught:
        guest.snapshot()
    assert "--hypervisor=kvm" in caught.value.hint
