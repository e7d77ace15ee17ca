"""`doctor` on simulated machines, which are folders with a few files."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from harness.__main__ import main
from harness.commands import doctor
from harness.commands.doctor import Finding, conclusion
from harness.hosts.probe import Obstacle, Verdict

NONE = Verdict("none", (Obstacle("/dev/kvm is missing", "modprobe kvm_amd"),))


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {row.subject: row for row in findings}


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_bare_machine_gets_hints(tmp_path: Path) -> None:
    findings = by_name([*doctor.kvm_findings(tmp_path, NONE), *doctor.device_findings(tmp_path)])
    assert findings["/dev/kvm"].state == "missing"
    assert findings["stock guests"].hint == "modprobe kvm_amd"
    assert findings["/dev/vhost-vsock"].hint == "run as root: modprobe vhost_vsock"
    assert findings["/dev/net/tun"].detail == "not found"
    assert by_name(doctor.system_findings(tmp_path))["cgroup v2"].state == "missing"


def test_good_machine(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "dev/kvm": "",
            "dev/vhost-vsock": "",
            "dev/vhost-net": "",
            "dev/net/tun": "",
            "sys/module/kvm_amd/parameters/nested": "1\n",
            "sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
            "sys/devices/system/cpu/smt/control": "off\n",
            "sys/kernel/mm/ksm/run": "1\n",
            "proc/meminfo": "MemAvailable: 8388608 kB\nHugePages_Total: 7\n",
        },
    )
    findings = [
        *doctor.kvm_findings(root, Verdict("svm")),
        *doctor.device_findings(root),
        *doctor.system_findings(root),
        *doctor.capacity_findings(root, tmp_path)[:1],
    ]
    assert [row for row in findings if row.state != "ok"] == []
    by_subject = by_name(findings)
    assert by_subject["nested guests"].detail == "kvm_amd nested=1"
    assert by_subject["KSM"].detail == "on"
    assert "reserved: 7" in by_subject["huge pages"].detail
    assert by_subject["memory"].detail == "8.0 GiB available"


def test_noisy_machine_gets_notes(tmp_path: Path) -> None:
    cpu = "sys/devices/system/cpu"
    root = write(
        tmp_path,
        {f"{cpu}/cpu0/cpufreq/scaling_governor": "powersave\n", f"{cpu}/smt/control": "on\n"},
    )
    findings = by_name(doctor.system_findings(root))
    assert findings["CPU governor"].state == findings["SMT"].state == "note"
    assert "performance" in findings["CPU governor"].hint


def test_little_memory_and_no_programs(tmp_path: Path) -> None:
    root = write(tmp_path, {"proc/meminfo": "MemAvailable: 1048576 kB\n"})
    assert by_name(doctor.capacity_findings(root, tmp_path / "cache"))["memory"].state == "missing"
    findings = by_name(doctor.program_findings(lambda _name: None))
    assert findings["qemu-system-x86_64"].hint == "apt install qemu-system-x86"
    assert findings["gcc"].state == "missing"


def test_conclusion_names_the_chosen_host() -> None:
    good, bad = Finding("gcc", "ok", ""), Finding("gcc", "missing", "missing")
    assert conclusion(Verdict("vmx"), [bad]) == (
        True,
        "auto: local: this machine's KVM (vmx) runs stock guests",
    )
    assert conclusion(NONE, [good]) == (
        True,
        "auto: emulated: this machine has no usable KVM: /dev/kvm is missing",
    )
    works, line = conclusion(NONE, [bad, good])
    assert not works
    assert line.endswith("needs gcc")


def test_exit_status_and_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setenv("PATH", str(tmp_path))
    console = Console(file=out, width=100)
    assert doctor.main(console, root=tmp_path, cache=tmp_path / "cache") == 1
    assert out.getvalue().splitlines()[-1].startswith("auto: no host works: ")
    assert list(tmp_path.iterdir()) == []  # doctor changes nothing


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor"])
    assert capsys.readouterr().out.splitlines()[-1].startswith("auto: ")
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2


def test_module_does_not_import_rich() -> None:
    code = "import sys, harness.commands.doctor; sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
