"""`doctor`: checks what this machine can run, with a hint for each problem. It changes nothing."""

# ruff: noqa: PLC0415 - rich is imported only when a table is printed
from __future__ import annotations

import argparse
import os
import shutil
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.common import Commands, add_command
from harness.hosts.probe import Verdict, probe_local
from harness.hosts.select import choose_auto
from images import store
from images.run import PROGRAMS

if TYPE_CHECKING:
    from rich.console import Console

GIB = 1 << 30
MIN_MEMORY = 5 * GIB  # the emulated host has 4 GiB
MIN_DISK = 4 * GIB  # both images, their packages, and the temporary files of one build
# program that runs the emulated host -> Debian package (images.run lists those that build images)
EMULATOR = {"qemu-system-x86_64": "qemu-system-x86", "setpriv": "util-linux"}
STYLES = {"ok": "green", "missing": "red", "note": "yellow"}


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    state: "ok", "missing" (a feature does not work), or "note" (it works; the hint improves it).
    """

    subject: str
    state: str
    detail: str
    hint: str = ""


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def kvm_findings(root: Path, verdict: Verdict) -> list[Finding]:
    """The KVM device, its backend, and whether stock guests run."""
    findings = []
    device = root / "dev/kvm"
    if device.exists():
        status = device.stat()
        try:
            group = device.group()
        except KeyError:
            group = str(status.st_gid)
        rights = os.access(device, os.R_OK | os.W_OK)
        mode = f"mode {stat.S_IMODE(status.st_mode):04o}, group {group}"
        detail = f"{mode}, {'accessible' if rights else 'no access'}"
        findings.append(Finding("/dev/kvm", "ok" if rights else "missing", detail))
    else:
        findings.append(Finding("/dev/kvm", "missing", "not found"))
    if verdict.backend in {"vmx", "svm"}:
        findings.append(Finding("KVM backend", "ok", verdict.backend))
    else:
        known = {"pvm": "software KVM (kvm_pvm)"}
        findings.append(Finding("KVM backend", "missing", known.get(verdict.backend, "none")))
    for module in ("kvm_intel", "kvm_amd"):
        nested = _read(root / f"sys/module/{module}/parameters/nested")
        if nested in {"1", "Y"}:
            findings.append(Finding("nested guests", "ok", f"{module} nested={nested}"))
        elif nested:
            hint = f"for nested tests, add 'options {module} nested=1' to /etc/modprobe.d"
            findings.append(Finding("nested guests", "note", f"{module} nested={nested}", hint))
    if verdict.usable:
        findings.append(Finding("stock guests", "ok", "a one-page guest ran"))
    findings += [
        Finding("stock guests", "missing", obstacle.cause, obstacle.hint)
        for obstacle in verdict.obstacles
    ]
    return findings


def device_findings(root: Path) -> list[Finding]:
    """The devices for the network traffic of guests."""
    findings = []
    for name, module in (("vhost-vsock", "vhost_vsock"), ("vhost-net", "vhost_net")):
        findings.append(_device(root / "dev" / name, f"/dev/{name}", module))
    findings.append(_device(root / "dev/net/tun", "/dev/net/tun", "tun"))
    return findings


def _device(path: Path, name: str, module: str) -> Finding:
    if not path.exists():
        return Finding(name, "missing", "not found", f"run as root: modprobe {module}")
    if not os.access(path, os.R_OK | os.W_OK):
        hint = f"run as root: chgrp kvm {name}; chmod 660 {name}"
        return Finding(name, "missing", "no access", hint)
    return Finding(name, "ok", "accessible")


def system_findings(root: Path) -> list[Finding]:
    """Settings of the system that affect the noise of measurements."""
    findings = []
    cgroup = _read(root / "sys/fs/cgroup/cgroup.controllers")
    if cgroup:
        findings.append(Finding("cgroup v2", "ok", cgroup))
    else:
        hint = "boot the kernel with systemd.unified_cgroup_hierarchy=1"
        findings.append(Finding("cgroup v2", "missing", "not mounted at /sys/fs/cgroup", hint))
    cpu = root / "sys/devices/system/cpu"
    governor = _read(cpu / "cpu0/cpufreq/scaling_governor")
    if governor in {"performance", ""}:
        findings.append(
            Finding("CPU governor", "ok", governor or "none (set outside this machine)")
        )
    else:
        hint = "for less noise, run: cpupower frequency-set -g performance"
        findings.append(Finding("CPU governor", "note", governor, hint))
    smt = _read(cpu / "smt/control")
    hint = "for less noise, run: echo off > /sys/devices/system/cpu/smt/control"
    on = smt == "on"
    findings.append(Finding("SMT", "note" if on else "ok", smt or "unknown", hint if on else ""))
    memory = _meminfo(root)
    huge = _read(root / "sys/kernel/mm/transparent_hugepage/enabled") or "unknown"
    detail = f"transparent: {huge}; reserved: {memory.get('HugePages_Total', 0)}"
    findings.append(Finding("huge pages", "ok", detail))
    ksm = {"1": "on", "0": "off"}.get(_read(root / "sys/kernel/mm/ksm/run"), "not in this kernel")
    findings.append(Finding("KSM", "ok", ksm))
    return findings


def _meminfo(root: Path) -> dict[str, int]:
    """The entries of /proc/meminfo: KiB, or counts."""
    pairs = (line.split(":") for line in _read(root / "proc/meminfo").splitlines() if ":" in line)
    return {name: int(value.split()[0]) for name, value in pairs}


def capacity_findings(root: Path, cache: Path) -> list[Finding]:
    """Available memory, and disk space in the image cache."""
    available = _meminfo(root).get("MemAvailable", 0) * 1024
    hint = "" if available >= MIN_MEMORY else "stop other programs, or add memory"
    findings = [
        Finding("memory", "missing" if hint else "ok", f"{available / GIB:.1f} GiB available", hint)
    ]
    existing = next(path for path in (cache, *cache.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    built = any(current for _folder, _manifest, current in store.list_images(cache))
    detail = f"{free / GIB:.1f} GiB free at {cache}" + (", images built" if built else "")
    hint = f"free {MIN_DISK / GIB:.0f} GiB, or set XDG_CACHE_HOME to a directory on a larger disk"
    short = free < MIN_DISK and not built
    return [
        *findings,
        Finding("image cache", "missing" if short else "ok", detail, hint if short else ""),
    ]


def program_findings(which: Callable[[str], str | None] = shutil.which) -> list[Finding]:
    """The required programs, with the Debian package of each missing one."""
    findings = []
    for program, package in {**EMULATOR, **PROGRAMS}.items():
        path = which(program)
        hint = "" if path else f"apt install {package}"
        findings.append(Finding(program, "ok" if path else "missing", path or "not found", hint))
    return findings


def conclusion(verdict: Verdict, needed: Sequence[Finding]) -> tuple[bool, str]:
    """Whether any host works, and a line with the host that "auto" chooses and the reason.

    needed: findings that the emulated host depends on.
    """
    choice, why = choose_auto(verdict)
    if choice == "emulated":
        missing = [finding.subject for finding in needed if finding.state == "missing"]
        if missing:
            names = ", ".join(missing)
            return False, f"auto: no host works: {why}; the emulated host needs {names}"
    return True, f"auto: {choice}: {why}"


def show(findings: Sequence[Finding], console: Console) -> None:
    """Print the findings as a table. The state is a word too, for readers without colours."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Checks of this machine", title_justify="left")
    for column in ("check", "state", "detail", "hint"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        state = Text(finding.state, style=STYLES[finding.state])
        table.add_row(Text(finding.subject), state, Text(finding.detail), Text(finding.hint))
    console.print(table)


def add(commands: Commands) -> None:
    parser = add_command(
        commands, "doctor", "Check what this machine can run, with a hint for each problem."
    )
    parser.set_defaults(run=_run)


def _run(_arguments: argparse.Namespace) -> int:
    return main()


def main(
    console: Console | None = None, *, root: Path = Path("/"), cache: Path | None = None
) -> int:
    """Print all findings; return 0 when any host works, otherwise 1."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console()
    verdict = probe_local(root)
    needed = program_findings() + capacity_findings(root, cache or store.default_cache())
    show(
        [*kvm_findings(root, verdict), *device_findings(root), *system_findings(root), *needed],
        console,
    )
    works, line = conclusion(verdict, needed)
    console.print(Text(line), soft_wrap=True)
    return 0 if works else 1
