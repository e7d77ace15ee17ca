"""Snapshots of payloads: written, restored, refused if they were changed."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from harness.agent.init_requests import RestoreConfig
from harness.errors import HarnessError, ProvisionError
from harness.hypervisors.agent_client import AgentClient
from harness.kvm import structs
from harness.kvm.errors import ConfigError
from harness.vmm.memory import PAGE
from harness.vmm.state_reader import StateReader, encode_bytes, save_attributes
from tests.vmm.guests import Guest, Runner
from tests.vmm.payload import FOR_EVER, HELLO
from tests.vmm.test_payload_disk import SECTOR_ONE, disk, source
from tests.waiting import wait_until

__all__ = ["disk"]

COUNTER = 0x20_0000
WAIT_KEY = """
8:  mov $0x3fd, %dx ; in %dx, %al ; test $1, %al ; jz 8b
    mov $0x3f8, %dx ; in %dx, %al
"""
# prints the counter for each typed key, and increments it
ANSWER = f"""
    incl {COUNTER:#x}
1:  {WAIT_KEY}
    mov {COUNTER:#x}, %eax ; add $'0', %al ; mov $0x3f8, %dx ; out %al, %dx
    mov $10, %al ; out %al, %dx
    incl {COUNTER:#x}
    jmp 1b
"""
PERIODIC = """
    sti
    movl $0x20040, 0xfee00320 ; movl $0xb, 0xfee003e0 ; movl $1000000, 0xfee00380
1:  hlt ; testl $7, COUNT ; jnz 1b
    say again 6
    jmp 1b
"""


def type_key(guest: Guest) -> None:
    guest.machine._agent.request("type", guest.machine._guest, {"text": "x"})


def press(guest: Guest, line: str) -> None:
    """Type a key and wait for the line that answers it."""
    type_key(guest)
    guest.wait_line(line)


def take_snapshot(guest: Guest, folder: Path) -> Path:
    folder.mkdir()
    assert guest.machine.snapshot(str(folder)) > 0
    return folder


@pytest.fixture
def origin(run: Runner) -> Guest:
    """A guest that has answered one key."""
    guest = run(HELLO + ANSWER, "origin")
    guest.wait_line("hi")
    press(guest, "1")
    return guest


@pytest.fixture
def snapshot_folder(origin: Guest, tmp_path: Path) -> Path:
    return take_snapshot(origin, tmp_path / "snapshot_folder")


def test_clones_continue_independently(run: Runner, origin: Guest, snapshot_folder: Path) -> None:
    press(origin, "2")
    a = run.start("restore", "a", snapshot=str(snapshot_folder))
    press(a, "2")
    press(a, "3")
    b = run.start("restore", "b", snapshot=str(snapshot_folder))
    press(b, "2")
    assert (a.lines, b.lines) == (["2", "3"], ["2"])
    press(origin, "3")
    press(a, "4")
    again = run.start(
        "restore", "c", snapshot=str(take_snapshot(a, snapshot_folder.parent / "of a clone"))
    )
    press(again, "5")


def test_memory_file_is_sparse_and_unchanged_by_clones(run: Runner, snapshot_folder: Path) -> None:
    file = snapshot_folder / "memory"
    assert file.stat().st_blocks * 512 < 2 << 20
    before = file.read_bytes()
    assert len(before) == (64 << 20) + 4096
    press(run.start("restore", "a", snapshot=str(snapshot_folder)), "2")
    assert file.read_bytes() == before


def test_pages_that_a_clone_writes_are_mergeable_as_its_origins_are(
    run: Runner, tmp_path: Path
) -> None:
    """KSM's mark on the mapping of the snapshot's file."""
    for merge in (True, False):
        guest = run(HELLO + ANSWER, f"origin {merge}", mergeable=merge)
        guest.wait_line("hi")
        folder = take_snapshot(guest, tmp_path / str(merge))
        clone = run.start("restore", f"clone {merge}", snapshot=str(folder))
        press(clone, "1")
        assert clone.machine.facts["mergeable"] == merge
        smaps = Path(f"/proc/{clone.machine.facts['pid']}/smaps").read_text().splitlines()
        start = next(at for at, line in enumerate(smaps) if line.endswith(f"{folder}/memory"))
        flags = next(line for line in smaps[start:] if line.startswith("VmFlags"))
        assert ("mg" in flags.split()) == merge


def test_paused_guest_stays_paused(origin: Guest, supervisor: AgentClient, tmp_path: Path) -> None:
    supervisor.request("pause", "origin")
    take_snapshot(origin, tmp_path / "paused")
    type_key(origin)
    before = origin.machine.statistics()["user_exits"]
    assert origin.machine.statistics()["user_exits"] == before
    supervisor.request("resume", "origin")
    origin.wait_line("2")


def test_waiting_application_processor_is_restored(run: Runner, tmp_path: Path) -> None:
    guest = run(HELLO + ANSWER, vcpus=2)
    guest.wait_line("hi")
    clone = run.start("restore", "clone", snapshot=str(take_snapshot(guest, tmp_path / "two")))
    press(clone, "1")


def test_timer_interrupts_continue_in_a_clone(run: Runner, tmp_path: Path) -> None:
    """The local APIC's periodic timer with a handler that counts."""
    guest = run(source(PERIODIC), "origin")
    guest.wait_line("again")
    folder = take_snapshot(guest, tmp_path / "timer")
    count = len(guest.lines)
    clones = [run.start("restore", name, snapshot=str(folder)) for name in ("a", "b")]
    for one in clones:
        assert wait_until(lambda: len(one.lines) > 3), one.ends  # noqa: B023
    assert wait_until(lambda: len(guest.lines) > count + 3), guest.ends


def test_disk_ring_continues_in_a_clone(
    run: Runner, disk: list[dict[str, object]], tmp_path: Path
) -> None:
    """The clone's request is the ring's second; its interrupt uses the restored MSI-X table."""
    body = f"""
        sti ; movl $0, BAR + 0x301c
        request 1
        sleep_until 1
        say again 6
        {WAIT_KEY}
        movl $0, DATA
        request 2
        sleep_until 2                   /* or by a spurious interrupt of the restore */
    1:  cmpw $2, USED + 2 ; jne 1b
        say DATA {len(SECTOR_ONE)}
    """
    guest = run(source(body), disks=disk)
    guest.wait_line("again")
    folder = take_snapshot(guest, tmp_path / "disk-snapshot")
    for name in ("a", "b"):
        press(run.start("restore", name, snapshot=str(folder)), "sector one")
    press(guest, "sector one")


# refusals


def change_state(snapshot_folder: Path, alter: Callable[[dict[str, Any]], None]) -> None:
    """Change the body of a state file and update its checksum."""
    head, body = map(json.loads, (snapshot_folder / "state").read_text().splitlines())
    alter(body)
    text = json.dumps(body)
    head["check"] = zlib.crc32(text.encode())
    (snapshot_folder / "state").write_text(f"{json.dumps(head)}\n{text}")


def msr(index: int, value: int) -> str:
    return encode_bytes(structs.MSR_ENTRY.pack(index, value))


def refusal(run: Runner, **arguments: Any) -> str:
    """The cause of a refused restore, which must have a hint."""
    with pytest.raises(ProvisionError) as caught:
        run.start("restore", "refused", **arguments)
    assert caught.value.hint
    return caught.value.cause


def test_missing_or_damaged_file_is_refused(run: Runner, snapshot_folder: Path) -> None:
    state, memory = snapshot_folder / "state", snapshot_folder / "memory"
    text = state.read_text()
    assert "No such file" in refusal(run, snapshot=str(snapshot_folder / "absent"))
    for broken, why in (
        ("", "cannot be read"),
        (text[:-10], "cut short or was changed"),
        ("[]", "no object"),
        (text.replace('"version": 5', '"version": 1'), "version 1, this is 5"),
        (text.replace("tsc_khz", "tsc_kHz"), "was changed"),
    ):
        state.write_text(broken)
        assert why in refusal(run, snapshot=str(snapshot_folder))
    state.write_text(text)
    os.truncate(memory, (64 << 20) - 4096)
    assert "not this snapshot's memory" in refusal(run, snapshot=str(snapshot_folder))
    os.truncate(memory, (64 << 20) + 4096)
    assert "not this snapshot's memory" in refusal(run, snapshot=str(snapshot_folder))
    memory.unlink()
    assert "No such file" in refusal(run, snapshot=str(snapshot_folder))


@pytest.mark.parametrize(
    ("alter", "why"),
    [
        (lambda body: body["machine"]["vcpus"].append({}), "vcpus: 2 of 1"),
        (lambda body: body["machine"]["vcpus"][0].update(lapic="AAAA"), "3 bytes, not 1024"),
        (lambda body: body["machine"]["vcpus"][0].update(xsave="AAAA"), "xsave: 3 bytes"),
        (lambda body: body["machine"]["vcpus"][0].update(cpuid="AAAA"), "3 bytes, in entries"),
        (lambda body: body["machine"]["vcpus"][0].update(tsc_khz=1), "TSC of 1 kHz"),
        (lambda body: body["machine"]["vcpus"][0].update(msrs=msr(0x1D0, 1)), "MSR 0x1d0"),
        (lambda body: body["machine"]["vm"].update(pit=5), "no str: 5"),
        (lambda body: body["machine"].pop("serial"), "no object"),
        (lambda body: body["machine"]["virtio"].append({}), "virtio: 1 of 0"),
        (lambda body: body["machine"]["pci"]["functions"].append({}), "functions: 2 of 1"),
        (lambda body: body["config"].update(vcpus=0), "0 vCPUs"),
        (lambda body: body["config"].update(memory=32), "not this snapshot's memory"),
        (lambda body: body.update(memory="ff"), "not this snapshot's memory"),
    ],
)
def test_invalid_state_is_refused(
    run: Runner, snapshot_folder: Path, alter: Callable[[dict[str, Any]], None], why: str
) -> None:
    change_state(snapshot_folder, alter)
    assert why in refusal(run, snapshot=str(snapshot_folder))


def test_state_of_other_devices_is_refused(
    run: Runner, disk: list[dict[str, object]], tmp_path: Path, snapshot_folder: Path
) -> None:
    assert "pci.functions: 1 of 2" in refusal(
        run, snapshot=str(snapshot_folder), config={"disks": disk}
    )
    assert "memory and vCPUs" in refusal(run, snapshot=str(snapshot_folder), config={"memory": 128})
    with_disk = run(HELLO + FOR_EVER, "with a disk", disks=disk)
    with_disk.wait_line("hi")
    folder = take_snapshot(with_disk, tmp_path / "with")
    larger = tmp_path / "larger"
    larger.write_bytes(bytes(4096))
    other = [{"path": str(larger), "serial": "d", "readonly": True}]
    assert "virtio-blk is another" in refusal(run, snapshot=str(folder), config={"disks": other})


def test_machine_that_cannot_be_shared_is_refused(
    run: Runner, origin: Guest, snapshot_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(HarnessError, match="File exists") as caught:
        origin.machine.snapshot(str(snapshot_folder))
    assert caught.value.hint
    with pytest.raises(HarnessError, match="No such file"):
        origin.machine.snapshot(str(tmp_path / "absent"))
    path = tmp_path / "disk"
    path.write_bytes(bytes(512))
    disks = [{"path": str(path), "serial": "d", "readonly": False}]
    writer = run(HELLO + FOR_EVER, "writer", disks=disks)
    with pytest.raises(HarnessError, match="cannot be shared"):
        take_snapshot(writer, tmp_path / "never")
    press(origin, "2")  # the guest still runs


def test_prefault_pages_are_private_before_the_clone_runs(
    run: Runner, snapshot_folder: Path
) -> None:
    first = run.start("restore", "first", snapshot=str(snapshot_folder))
    press(first, "2")
    prefault_pages = first.machine.private_dirty_pages(str(snapshot_folder))
    assert COUNTER // PAGE in pages(prefault_pages)
    second = run.start(
        "restore", "second", snapshot=str(snapshot_folder), prefault_pages=prefault_pages
    )
    assert pages(second.machine.private_dirty_pages(str(snapshot_folder))) >= pages(prefault_pages)
    third = run.start("restore", "third", snapshot=str(snapshot_folder), prefault_pages=[0x300, 2])
    assert {0x300, 0x301} <= pages(third.machine.private_dirty_pages(str(snapshot_folder)))
    for clone in (second, third):
        press(clone, "2")
    with pytest.raises(HarnessError, match="cannot be read: No such file") as caught:
        third.machine.private_dirty_pages(str(snapshot_folder / "absent"))
    assert caught.value.hint


def pages(runs: list[int]) -> set[int]:
    return {
        first + more for first, n in zip(runs[::2], runs[1::2], strict=True) for more in range(n)
    }


@pytest.mark.parametrize(
    ("prefault_pages", "why"),
    [
        ([(64 << 20) // PAGE, 1], "outside guest memory"),
        ([0, (64 << 20) // PAGE + 1], "outside guest memory"),
        ([1 << 60, 1], "outside guest memory"),
        ([1 << 60, 1 << 80], "outside guest memory"),
        ([-1, 1], "no runs of pages"),
        ([1, -1], "no runs of pages"),
        ([1], "no runs of pages"),
        (["1", 1], "no int"),
        (5, "no list"),
    ],
    ids=str,
)
def test_invalid_prefault_pages_are_refused(
    run: Runner, snapshot_folder: Path, prefault_pages: Any, why: str
) -> None:
    with pytest.raises(ProvisionError, match=why) as caught:
        run.start(
            "restore", "refused", snapshot=str(snapshot_folder), prefault_pages=prefault_pages
        )
    assert caught.value.hint or why.startswith("no ")


@pytest.mark.parametrize(
    "identity", [{"name": 5}, {"name": ""}, {"name": "a b"}, {"Name": "a"}, {"name": "x" * 65}]
)
def test_invalid_identity_is_refused(identity: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"no (word|str)"):
        RestoreConfig.parse({"snapshot": "s", "identity": identity})


class DeviceWithState:
    """A device with an attribute of each kind."""

    STATE: ClassVar = {"number": 6, "flag": 2, "fixed": 0, "free": 4, "list": 3}

    def __init__(self) -> None:
        self.number, self.flag, self.list = 5, True, [1, 2]
        self.fixed, self.free = bytearray(b"ab"), bytearray(b"abc")


def test_attributes_round_trip() -> None:
    original, blank = DeviceWithState(), DeviceWithState()
    blank.number, blank.flag, blank.list = 0, False, [0, 0]
    blank.fixed[:], blank.free[:] = b"  ", b""
    StateReader("it", json.loads(json.dumps(save_attributes(original)))).restore_attributes(blank)
    assert vars(blank) == vars(original)


@pytest.mark.parametrize(
    "change_state",
    [
        *({"number": 6}, {"number": -1}, {"number": True}, {"number": None}, {"number": "5"}),
        *({"flag": 1}, {"flag": None}, {"fixed": "AAAA"}, {"fixed": 5}, {"fixed": "?"}),
        *({"free": encode_bytes(bytes(5))}, {"list": [1]}, {"list": [1, 3]}, {"list": [1, "2"]}),
    ],
    ids=str,
)
def test_attributes_are_checked_when_restored(change_state: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"snapshot: it.{next(iter(change_state))}"):
        StateReader(
            "it", {**save_attributes(DeviceWithState()), **change_state}
        ).restore_attributes(DeviceWithState())


def test_nested_objects_are_checked() -> None:
    saved = StateReader("it", {"number": 5, "list": [{}, 6]})
    for take_it in (
        lambda: saved.read_object("number"),
        lambda: saved.read_objects("list", 1),
        lambda: saved.read_objects("list", 2),
        lambda: StateReader("it", []),
    ):
        with pytest.raises(ConfigError, match="snapshot: it"):
            take_it()
