"""Verdicts on machines that are a few files in a folder."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from harness.errors import HostError
from harness.hosts import kvm_probe, probe
from harness.hosts.local import LocalHost
from harness.hosts.probe import Verdict, probe_local, run_vm_probe
from harness.hosts.select import select_host, why_auto


def machine(
    root: Path, *, flags: str = "", kvm: bool = True, modules: tuple[str, ...] = ()
) -> Path:
    (root / "proc").mkdir()
    (root / "dev").mkdir()
    (root / "proc/cpuinfo").write_text(f"processor : 0\nflags : fpu {flags}\n")
    if kvm:
        (root / "dev/kvm").touch()
    for module in modules:
        (root / "sys/module" / module).mkdir(parents=True)
    return root


def allowed(_path: Path, _mode: int) -> bool:
    return True


def runs(_device: Path) -> str:
    return ""


def judge(root: Path) -> Verdict:
    return probe_local(root, access=allowed, vm_probe=runs)


@pytest.mark.parametrize("flag", ["vmx", "svm"])
def test_usable(tmp_path: Path, flag: str) -> None:
    verdict = judge(machine(tmp_path, flags=flag))
    assert verdict.usable
    assert verdict.backend == flag
    assert why_auto(verdict)[0] == "local"


@pytest.mark.parametrize(
    ("flags", "modules", "cause", "hint"),
    [
        ("vmx", (), "kvm_intel is not loaded", "modprobe kvm_intel"),
        ("svm", (), "kvm_amd is not loaded", "modprobe kvm_amd"),
        ("svm", ("kvm_amd",), "although kvm_amd is loaded", "--device /dev/kvm"),
        ("", (), "neither vmx nor svm", "firmware"),
    ],
)
def test_no_device(
    tmp_path: Path, flags: str, modules: tuple[str, ...], cause: str, hint: str
) -> None:
    verdict = judge(machine(tmp_path, flags=flags, kvm=False, modules=modules))
    assert not verdict.usable
    assert verdict.backend == "none"
    assert cause in verdict.cause
    assert hint in verdict.hint


def test_software_kvm_is_refused_even_with_a_flag(tmp_path: Path) -> None:
    verdict = judge(machine(tmp_path, flags="svm", modules=("kvm_pvm",)))
    assert verdict.backend == "pvm"
    assert "software KVM" in verdict.cause
    assert why_auto(verdict)[0] == "emulated"


def test_device_without_a_flag(tmp_path: Path) -> None:
    verdict = judge(machine(tmp_path))
    assert "neither vmx nor svm" in verdict.cause


def test_no_rights_name_the_group(tmp_path: Path) -> None:
    root = machine(tmp_path, flags="vmx")
    verdict = probe_local(root, access=lambda _path, _mode: False, vm_probe=runs)
    assert verdict.backend == "vmx"
    assert "may not open /dev/kvm" in verdict.cause
    assert "group" in verdict.hint or "usermod -aG" in verdict.hint


def test_guest_that_does_not_run(tmp_path: Path) -> None:
    root = machine(tmp_path, flags="vmx")
    verdict = probe_local(root, access=allowed, vm_probe=lambda _device: "exit 17")
    assert "does not run a guest: exit 17" in verdict.cause


def test_vm_probe_on_a_file_that_is_no_kvm(tmp_path: Path) -> None:
    (tmp_path / "kvm").touch()
    assert "ioctl" in run_vm_probe(tmp_path / "kvm")


def test_vm_probe_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "kvm")
    hang = tmp_path / "hang.py"
    hang.write_text("import sys; open(sys.argv[1])\n")
    monkeypatch.setattr(kvm_probe, "__file__", str(hang))
    monkeypatch.setattr(probe, "PROBE_TIMEOUT", 0.3)
    start = time.monotonic()
    assert "did not end" in run_vm_probe(tmp_path / "kvm")
    assert time.monotonic() - start < 10


def test_vm_probe_on_the_real_device() -> None:
    device = Path("/dev/kvm")
    if not os.access(device, os.R_OK | os.W_OK):
        pytest.skip("/dev/kvm is missing here, or not ours to open")
    assert run_vm_probe(device) == ""


class TestSelect:
    bad = Verdict("none", (probe.Lack("no KVM at all", "buy one"),))

    def test_auto_takes_local_and_says_why(self) -> None:
        said: list[str] = []
        host = select_host("auto", said.append, probe=lambda: Verdict("svm"))
        assert isinstance(host, LocalHost)
        assert "svm" in host.why
        assert said == [f"host local: {host.why}"]

    def test_local_without_kvm_is_an_error(self) -> None:
        with pytest.raises(HostError, match="no KVM at all") as caught:
            select_host("local", print, probe=lambda: self.bad)
        assert "buy one" in caught.value.hint
        assert "--virt-host=emulated" in caught.value.hint

    def test_local_with_kvm(self) -> None:
        assert select_host("local", print, probe=lambda: Verdict("vmx")).name == "local"

    @pytest.mark.parametrize("name", ["", "remote", "ssh:host", "http://x"])
    def test_no_host(self, name: str) -> None:
        with pytest.raises(HostError, match="is no host"):
            select_host(name, print)
