"""What the doctor finds on machines that are a few files in a folder."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from harness.__main__ import main
from harness.commands import doctor
from harness.commands.doctor import Row, conclusion
from harness.hosts.probe import Obstacle, Verdict

NONE = Verdict("none", (Obstacle("/dev/kvm is missing", "modprobe kvm_amd"),))


def by_name(rows: list[Row]) -> dict[str, Row]:
    return {row.what: row for row in rows}


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_bare_machine_lacks_with_mends(tmp_path: Path) -> None:
    rows = by_name([*doctor.kvm_rows(tmp_path, NONE), *doctor.device_rows(tmp_path)])
    assert rows["/dev/kvm"].state == "lack"
    assert rows["stock guests"].hint == "modprobe kvm_amd"
    assert rows["/dev/vhost-vsock"].hint == "modprobe vhost_vsock as root"
    assert rows["/dev/net/tun"].found == "missing"
    assert by_name(doctor.system_rows(tmp_path))["cgroup v2"].state == "lack"


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
    rows = [
        *doctor.kvm_rows(root, Verdict("svm")),
        *doctor.device_rows(root),
        *doctor.system_rows(root),
        *doctor.room_rows(root, tmp_path)[:1],
    ]
    assert [row for row in rows if row.state != "ok"] == []
    found = by_name(rows)
    assert found["nested guests"].found == "kvm_amd nested=1"
    assert found["KSM"].found == "on"
    assert "reserved: 7" in found["huge pages"].found
    assert found["memory"].found == "8.0 GiB available"


def test_unsteady_machine_gets_notes(tmp_path: Path) -> None:
    cpu = "sys/devices/system/cpu"
    root = write(
        tmp_path,
        {f"{cpu}/cpu0/cpufreq/scaling_governor": "powersave\n", f"{cpu}/smt/control": "on\n"},
    )
    rows = by_name(doctor.system_rows(root))
    assert rows["CPU governor"].state == rows["SMT"].state == "note"
    assert "performance" in rows["CPU governor"].hint


def test_little_memory_and_no_programs(tmp_path: Path) -> None:
    root = write(tmp_path, {"proc/meminfo": "MemAvailable: 1048576 kB\n"})
    assert by_name(doctor.room_rows(root, tmp_path / "cache"))["memory"].state == "lack"
    rows = by_name(doctor.program_rows(lambda _name: None))
    assert rows["qemu-system-x86_64"].hint == "apt install qemu-system-x86"
    assert rows["gcc"].state == "lack"


def test_conclusions() -> None:
    good, bad = Row("gcc", "ok", ""), Row("gcc", "lack", "missing")
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
    assert line.endswith("lacks gcc")


def test_exit_status_and_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setenv("PATH", str(tmp_path))
    console = Console(file=out, width=100)
    assert doctor.main(console, root=tmp_path, cache=tmp_path / "cache") == 1
    assert out.getvalue().splitlines()[-1].startswith("auto: no host works: ")
    assert list(tmp_path.iterdir()) == []  # it only looks


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor"])
    assert capsys.readouterr().out.splitlines()[-1].startswith("auto: ")
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
