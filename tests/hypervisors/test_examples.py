"""The example hypervisors' command lines. No VMM is needed."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from harness.errors import HostError, ProvisionError
from harness.hosts.local import LocalHost
from harness.hypervisors.base import Disk, GuestSpec
from harness.hypervisors.process import ProcessHypervisor, VmConfig
from images.image import GuestImage

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def kvmtool(monkeypatch: pytest.MonkeyPatch) -> ProcessHypervisor:
    monkeypatch.syspath_prepend(EXAMPLES / "hypervisor-kvmtool")
    kind: Any = importlib.import_module("kvmtool").KvmtoolHypervisor
    hypervisor: ProcessHypervisor = object.__new__(kind)  # __init__ would start an agent
    hypervisor.program_path = "/usr/bin/lkvm"
    return hypervisor


def config(folder: Path, vcpus: int) -> VmConfig:
    files: dict[str, Any] = {name: folder / name for name in ("kernel", "bzimage", "initramfs")}
    for path in files.values():
        path.touch()
    image = GuestImage(
        **files,
        disk=folder / "disk",
        digest="0" * 16,
        release="",
        packages={},
        client_key=folder,
        host_key="",
        folder=folder,
    )
    return VmConfig(
        spec=GuestSpec("g", image, vcpus=vcpus, memory=192),
        host=LocalHost("tests"),
        boot="linux16",
        command_line="console=ttyS0 a=b",
        disks=(Disk("/root", "root"), Disk("/data", "data", readonly=False, direct=True)),
        cid=17,
        mac="02:00:0a:01:00:02",
    )


def test_kvmtool_gets_its_command_line(kvmtool: ProcessHypervisor, tmp_path: Path) -> None:
    command = kvmtool.command(config(tmp_path, vcpus=1))
    text = " ".join(command.argv)
    assert text.startswith(
        "/usr/bin/lkvm run --name guest --console serial --rng --cpus 1 --mem 192"
    )
    assert f"--kernel {tmp_path / 'bzimage'} --initrd {tmp_path / 'initramfs'}" in text
    assert "--params console=ttyS0 a=b" in text
    assert "--disk /root,ro --disk /data,direct" in text
    assert "--vsock 17" in text
    assert "fd={tap},vhost=1,guest_mac=02:00:0a:01:00:02" in text
    assert command.environment == {"HOME": "{directory}"}


def test_kvmtool_refuses_several_cpus(kvmtool: ProcessHypervisor, tmp_path: Path) -> None:
    with pytest.raises(ProvisionError, match="only one CPU") as caught:
        kvmtool.command(config(tmp_path, vcpus=2))
    assert "vcpus=1" in caught.value.hint


def test_kvmtools_hint_names_its_variable(
    kvmtool: ProcessHypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LKVM", raising=False)
    monkeypatch.setattr(type(kvmtool), "program", "no-such-lkvm")
    with pytest.raises(HostError, match="there is no no-such-lkvm on local") as caught:
        kvmtool.find_program(LocalHost("tests"))
    assert "set LKVM to its path" in caught.value.hint
