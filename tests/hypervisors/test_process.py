"""ProcessHypervisor with a shell in a VMM's place: no KVM, no kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import HostError, ProvisionError
from harness.hosts.base import Host
from harness.hosts.local import LocalHost
from harness.hypervisors.base import Disk, End, Events, GuestSpec
from harness.hypervisors.command_line import kernel_command_line
from harness.hypervisors.connectivity import Connectivity
from harness.hypervisors.process import ProcessHypervisor, VmConfig, VmmCommand, _check
from images.image import GuestImage
from tests.waiting import wait_until

SCRIPT = """
echo "$COMMAND_LINE"; echo "$DISKS"; cat "$1" "$2"; echo memory {memory}
case $3 in status-*) exit "${3#status-}";; esac; exec cat
"""


class ShellHypervisor(ProcessHypervisor):
    name = "shell"
    program = "sh"
    boots = ("linux16", "pvh")
    has_network = False

    def command(self, config: VmConfig) -> VmmCommand:
        name = config.spec.name
        return VmmCommand(
            [self.program_path, "-c", SCRIPT, "sh", config.bzimage, config.initramfs, name],
            environment={
                "COMMAND_LINE": config.command_line,
                "DISKS": " ".join(f"{disk.serial}={disk.path}" for disk in config.disks),
                "CID": str(config.cid),
            },
            exit_reasons={0: "power-off", 3: "reset"},
        )


@pytest.fixture
def host() -> Iterator[LocalHost]:
    host = LocalHost("tests")
    yield host
    host.close()


@pytest.fixture
def hypervisor(host: LocalHost) -> Iterator[ShellHypervisor]:
    hypervisor = ShellHypervisor(host, lambda text: None)
    yield hypervisor
    hypervisor.close()


@pytest.fixture
def spec(tmp_path: Path) -> GuestSpec:
    files: dict[str, Any] = {}
    for name in ("kernel", "bzimage", "initramfs", "disk"):
        files[name] = tmp_path / name
        files[name].write_text(f"the {name}\n")
    keys: dict[str, Any] = {"client_key": tmp_path, "host_key": "", "folder": tmp_path}
    image = GuestImage(**files, digest="0" * 16, release="", packages={}, **keys)
    return GuestSpec("guest", image, ssh="vsock")


class Recorder(SimpleNamespace):
    """The events of a machine."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.ends: list[End] = []
        self.events = Events(
            lambda at, text: self.lines.append(text), lambda stage, at: None, self.ends.append
        )

    def end(self) -> End:
        assert wait_until(lambda: self.ends)
        return self.ends[0]


def test_the_command_gets_placed_files_and_the_complete_command_line(
    hypervisor: ShellHypervisor, spec: GuestSpec
) -> None:
    recorder = Recorder()
    disk = Disk("/dev/null", "extra")
    machine = hypervisor.create(
        dataclasses.replace(spec, disks=(disk,), cmdline="own=word"), recorder.events
    )
    assert wait_until(lambda: len(recorder.lines) >= 5)
    command_line, disks, *files, memory = recorder.lines
    assert command_line.split()[0] == "console=ttyS0"
    assert "harness.disks=root,extra own=word" in command_line
    assert disks == f"root={spec.image.disk} extra=/dev/null"
    assert files == ["the bzimage", "the initramfs"]
    assert memory.split()[1].isdigit()
    assert machine.facts["boot"] == "linux16"
    assert machine.facts["cid"] > 2
    assert machine.facts["vmm"] == "sh"
    assert machine.statistics()["cpu_ns"] >= 0
    machine.stop()
    assert recorder.end().reason == "stopped"


@pytest.mark.parametrize(("status", "reason"), [(0, "power-off"), (3, "reset"), (4, "vmm-error")])
def test_exit_statuses_are_mapped(
    hypervisor: ShellHypervisor, spec: GuestSpec, status: int, reason: str
) -> None:
    recorder = Recorder()
    named = dataclasses.replace(spec, name=f"status-{status}")
    machine = hypervisor.create(named, recorder.events)
    assert recorder.end().reason == reason
    machine.stop()


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"boot": "linux64"}, "does not enter a kernel by boot=linux64; it supports linux16, pvh"),
        ({"vmm": {"rng": False}}, "is for the built-in VMM"),
        ({"exit_limit": 5}, "has no exit_limit"),
        ({"pin": [0]}, "does not pin single vCPUs"),
        ({"hugepages": True}, "does not support hugepages"),
        ({"root": "pmem"}, "does not support pmem"),
        ({"network": "bridge"}, "has no network device"),
        ({"disks": (Disk("/x", "x", overlay=True),)}, "does not support overlay"),
        ({"disks": (Disk("/x", "x", format="qcow2"),)}, "has no qcow2 disks"),
        ({"disks": (Disk("/x", "x", backend="vhost-user"),)}, "has no vhost-user disks"),
    ],
)
def test_unsupported_options_are_refused(
    hypervisor: ShellHypervisor, spec: GuestSpec, changes: dict[str, Any], cause: str
) -> None:
    with pytest.raises(ProvisionError, match=cause) as caught:
        hypervisor.create(dataclasses.replace(spec, **changes), Recorder().events)
    assert caught.value.hint
    assert caught.value.stage == "create"


def test_a_command_without_its_vsock_device_is_refused(host: LocalHost, spec: GuestSpec) -> None:
    class Forgetful(ShellHypervisor):
        def command(self, config: VmConfig) -> VmmCommand:
            return VmmCommand(["true"])

    hypervisor = Forgetful(host, lambda text: None)
    with pytest.raises(ProvisionError, match="no vsock device") as caught:
        hypervisor.create(spec, Recorder().events)
    assert "has_vsock = False" in caught.value.hint
    hypervisor.close()


def test_a_command_without_its_tap_is_refused(host: LocalHost, spec: GuestSpec) -> None:
    config = VmConfig(spec, host, "pvh", "", (), cid=0, mac="02:00:0a:01:00:02")
    network = Connectivity("bridge", vsock=False, mac=config.mac)
    with pytest.raises(ProvisionError, match=r"has no \{tap\}") as caught:
        _check(VmmCommand(["vmm"]), config, network)
    assert "has_network = False" in caught.value.hint
    _check(VmmCommand(["vmm", "tap,fd={tap}"]), config, network)


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["vmm", "vhostfd={vhsot}"], "use {vhost}"),
        (["vmm", "fd={tap}"], "use {memory} or {vhost} or {monitor} or {directory}"),
        (["vmm", "fd={disk1}"], "use {disk0}"),
    ],
)
def test_an_unknown_placeholder_is_refused(
    host: LocalHost, spec: GuestSpec, argv: list[str], hint: str
) -> None:
    disk = Disk("/x", "x", backend="vhost-user")
    disks = (disk,) if "disk" in argv[1] else ()
    config = VmConfig(spec, host, "pvh", "a={word}", disks, cid=0, mac="")
    network = Connectivity("none", vsock=False)
    with pytest.raises(ProvisionError, match=r"but the machine has none") as caught:
        _check(VmmCommand(argv), config, network)
    assert caught.value.hint == hint
    harmless = ["vmm", '{"driver": "x"}', "{}", "${HOME}", "-append", config.command_line]
    _check(VmmCommand(harmless, files={"config.json": "{word}"}), config, network)


@pytest.mark.parametrize(
    ("result", "cause"),
    [
        (["vmm"], "returns list, not VmmCommand"),
        (None, "returns NoneType, not VmmCommand"),
        (VmmCommand("vmm"), "has the argv 'vmm', which is no list"),
        (VmmCommand(["vmm", 7]), "has 7 in argv, which is no string"),  # type: ignore[list-item]
    ],
)
def test_a_result_that_is_no_command_names_the_driver(
    host: LocalHost, spec: GuestSpec, result: Any, cause: str
) -> None:
    class Careless(ShellHypervisor):
        def command(self, config: VmConfig) -> VmmCommand:
            return result  # type: ignore[no-any-return]

    hypervisor = Careless(host, lambda text: None)
    with pytest.raises(ProvisionError, match=rf"Careless\.command\(\) {cause}") as caught:
        hypervisor.create(spec, Recorder().events)
    assert caught.value.hint
    hypervisor.close()


def test_the_vmms_name_is_the_drivers_not_the_files(host: LocalHost, spec: GuestSpec) -> None:
    class Placed(ShellHypervisor):
        program = "vmm"

        def find_program(self, host: Host) -> str:
            return "/bin/sh"

    hypervisor = Placed(host, lambda text: None)
    machine = hypervisor.create(spec, Recorder().events)
    assert machine.facts["vmm"] == "vmm"
    machine.stop()
    hypervisor.close()


def test_a_part_of_another_number_is_no_vsock_address() -> None:
    assert VmmCommand(["guest-cid=17,x"]).contains_number(17)
    assert VmmCommand(["vmm"], files={"configuration": '{"cid": 17}'}).contains_number(17)
    assert not VmmCommand(["guest-cid=170", "217"]).contains_number(17)


def test_a_misspelled_feature_is_an_error() -> None:
    with pytest.raises(TypeError, match="unknown words: hugepage"):
        type("Misspelled", (ShellHypervisor,), {"features": frozenset({"hugepage"})})


def test_a_missing_program_has_a_hint(host: LocalHost) -> None:
    class Missing(ShellHypervisor):
        program = "no-such-vmm"
        package = "the-package"

    with pytest.raises(HostError, match="there is no no-such-vmm on local") as caught:
        Missing(host, lambda text: None)
    assert caught.value.hint == "install the-package there"


def test_memory_outside_the_agents_file_replaces_an_emulated_host(
    host: LocalHost, spec: GuestSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PrivateMemory(ShellHypervisor):
        def command(self, config: VmConfig) -> VmmCommand:
            return VmmCommand(["echo", str(config.cid)])

    class Failing(ShellHypervisor):
        def command(self, config: VmConfig) -> VmmCommand:
            return VmmCommand(["sh", "-c", "echo no option >&2; exit 2", str(config.cid)])

    reasons: list[str] = []
    monkeypatch.setattr(host, "emulated", True)
    monkeypatch.setattr(host, "request_replacement", reasons.append)
    for kind in (ShellHypervisor, Failing, PrivateMemory):
        hypervisor, recorder = kind(host, lambda text: None), Recorder()
        machine = hypervisor.create(spec, recorder.events)
        if kind is not ShellHypervisor:
            recorder.end()
        machine.stop()
        hypervisor.close()
    assert len(reasons) == 1
    assert "guests of shell leave memory behind" in reasons[0]


def test_the_command_line_is_composed_in_one_place(spec: GuestSpec) -> None:
    network = Connectivity("bridge", vsock=True, configuration="10.1.0.2/24,10.1.0.1")
    there = kernel_command_line(spec, network, emulated_host=True, console="hvc0").split()
    assert there[0] == "console=hvc0"
    assert there[-2:] == ["harness.ip=10.1.0.2/24,10.1.0.1", "norandmaps"]
    bare = dataclasses.replace(spec, root="pmem")
    here = kernel_command_line(bare, Connectivity("none", vsock=True), emulated_host=False)
    assert "harness.root=pmem" in here
    assert "norandmaps" not in here
