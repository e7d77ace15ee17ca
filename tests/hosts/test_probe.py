"""Verdicts on machines that consist of a few files in a folder."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from harness.errors import HostError
from harness.hosts import kvm_probe, probe
from harness.hosts.local import LocalHost
from harness.hosts.probe import Verdict, probe_local, run_vm_probe
from harness.hosts.select import choose_auto, select_host


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
def test_machine_with_kvm_is_usable(tmp_path: Path, flag: str) -> None:
    verdict = judge(machine(tmp_path, flags=flag))
    assert verdict.usable
    assert verdict.backend == flag
    assert choose_auto(verdict)[0] == "local"


@pytest.mark.parametrize(
    ("flags", "modules", "cause", "hint"),
    [
        ("vmx", (), "kvm_intel is not loaded", "modprobe kvm_intel"),
        ("svm", (), "kvm_amd is not loaded", "modprobe kvm_amd"),
        ("svm", ("kvm_amd",), "although kvm_amd is loaded", "--device /dev/kvm"),
        ("", (), "neither vmx nor svm", "firmware"),
    ],
)
def test_missing_device_names_cause_and_hint(
    tmp_path: Path, flags: str, modules: tuple[str, ...], cause: str, hint: str
) -> None:
    verdict = judge(machine(tmp_path, flags=flags, kvm=False, modules=modules))
    assert not verdict.usable
    assert verdict.backend == "none"
    assert cause in verdict.cause
    assert hint in verdict.hint


def test_software_kvm_is_not_usable(tmp_path: Path) -> None:
    verdict = judge(machine(tmp_path, flags="svm", modules=("kvm_pvm",)))
    assert verdict.backend == "pvm"
    assert "software KVM" in verdict.cause
    assert choose_auto(verdict)[0] == "emulated"


def test_device_without_a_cpu_flag_is_not_usable(tmp_path: Path) -> None:
    verdict = judge(machine(tmp_path))
    assert "neither vmx nor svm" in verdict.cause


def test_hint_for_missing_rights_names_the_group(tmp_path: Path) -> None:
    root = machine(tmp_path, flags="vmx")
    verdict = probe_local(root, access=lambda _path, _mode: False, vm_probe=runs)
    assert verdict.backend == "vmx"
    assert "may not open /dev/kvm" in verdict.cause
    assert "group" in verdict.hint or "usermod -aG" in verdict.hint


def test_failed_probe_guest_is_reported(tmp_path: Path) -> None:
    root = machine(tmp_path, flags="vmx")
    verdict = probe_local(root, access=allowed, vm_probe=lambda _device: "exit 17")
    assert "does not run a guest: exit 17" in verdict.cause


def test_vm_probe_of_a_regular_file_fails(tmp_path: Path) -> None:
    (tmp_path / "kvm").touch()
    assert "ioctl" in run_vm_probe(tmp_path / "kvm")


def test_vm_probe_kills_a_hanging_guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "kvm")
    hang = tmp_path / "hang.py"
    hang.write_text("import sys; open(sys.argv[1])\n")
    monkeypatch.setattr(kvm_probe, "__file__", str(hang))
    monkeypatch.setattr(probe, "PROBE_TIMEOUT", 0.3)
    start = time.monotonic()
    assert "did not end" in run_vm_probe(tmp_path / "kvm")
    assert time.monotonic() - start < 10


def test_vm_probe_of_this_machine() -> None:
    device = Path("/dev/kvm")
    if not os.access(device, os.R_OK | os.W_OK):
        pytest.skip("/dev/kvm is missing, or this user may not open it")
    assert run_vm_probe(device) == ""


class TestSelect:
    bad = Verdict("none", (probe.Obstacle("no KVM at all", "buy one"),))

    def test_auto_chooses_local_and_gives_the_reason(self) -> None:
        lines: list[str] = []
        host = select_host("auto", lines.append, probe=lambda: Verdict("svm"))
        assert isinstance(host, LocalHost)
        assert "svm" in host.reason
        assert lines == [f"host local: {host.reason}"]

    def test_local_without_kvm_is_an_error(self) -> None:
        with pytest.raises(HostError, match="no KVM at all") as caught:
            select_host("local", print, probe=lambda: self.bad)
        assert "buy one" in caught.value.hint
        assert "--virt-host=emulated" in caught.value.hint

    def test_local_with_kvm_is_opened(self) -> None:
        assert select_host("local", print, probe=lambda: Verdict("vmx")).name == "local"

    @pytest.mark.parametrize("name", ["", "remote", "ssh:host", "http://x"])
    def test_unknown_name_is_an_error(self, name: str) -> None:
        with pytest.raises(HostError, match="is not a host"):
            select_host(name, print)
