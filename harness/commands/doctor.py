"""What this machine can do, and the hint for each lack. It only looks: nothing is changed."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.hosts.probe import Verdict, probe_local
from harness.hosts.select import choose_auto
from images import store
from images.run import PROGRAMS

GIB = 1 << 30
NEED_MEMORY = 5 * GIB  # the emulated host has 4 GiB
NEED_DISK = 4 * GIB  # both images, the packages they are made of, and one build's scratch
# programs of the emulated host beside those that build images -> Debian package
EMULATOR = {"qemu-system-x86_64": "qemu-system-x86", "setpriv": "util-linux"}
STYLES = {"ok": "green", "lack": "red", "note": "yellow"}


@dataclass(frozen=True)
class Row:
    """A finding. state: "ok", "lack" (something does not work), "note" (works, but see)."""

    what: str
    state: str
    found: str
    hint: str = ""


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def kvm_rows(root: Path, verdict: Verdict) -> list[Row]:
    """The KVM device, what is below it, and whether stock guests run."""
    rows = []
    device = root / "dev/kvm"
    if device.exists():
        status = device.stat()
        try:
            group = device.group()
        except KeyError:
            group = str(status.st_gid)
        rights = os.access(device, os.R_OK | os.W_OK)
        mode = f"mode {stat.S_IMODE(status.st_mode):04o}, group {group}"
        found = f"{mode}, {'may be used' if rights else 'no rights'}"
        rows.append(Row("/dev/kvm", "ok" if rights else "lack", found))
    else:
        rows.append(Row("/dev/kvm", "lack", "missing"))
    if verdict.backend in {"vmx", "svm"}:
        rows.append(Row("KVM backend", "ok", verdict.backend))
    else:
        known = {"pvm": "software KVM (kvm_pvm)"}
        rows.append(Row("KVM backend", "lack", known.get(verdict.backend, "none")))
    for module in ("kvm_intel", "kvm_amd"):
        nested = _read(root / f"sys/module/{module}/parameters/nested")
        if nested in {"1", "Y"}:
            rows.append(Row("nested guests", "ok", f"{module} nested={nested}"))
        elif nested:
            hint = f"only for nested tests: options {module} nested=1 in /etc/modprobe.d"
            rows.append(Row("nested guests", "note", f"{module} nested={nested}", hint))
    if verdict.usable:
        rows.append(Row("stock guests", "ok", "a one-page guest ran"))
    rows += [
        Row("stock guests", "lack", obstacle.cause, obstacle.hint) for obstacle in verdict.obstacles
    ]
    return rows


def device_rows(root: Path) -> list[Row]:
    """What carries a guest's traffic."""
    rows = []
    for name, module in (("vhost-vsock", "vhost_vsock"), ("vhost-net", "vhost_net")):
        rows.append(_device(root / "dev" / name, f"/dev/{name}", module))
    rows.append(_device(root / "dev/net/tun", "/dev/net/tun", "tun"))
    return rows


def _device(path: Path, name: str, module: str) -> Row:
    if not path.exists():
        return Row(name, "lack", "missing", f"modprobe {module} as root")
    if not os.access(path, os.R_OK | os.W_OK):
        return Row(name, "lack", "no rights", f"as root: chgrp kvm {name}; chmod 660 {name}")
    return Row(name, "ok", "may be used")


def system_rows(root: Path) -> list[Row]:
    """What makes figures steady or unsteady."""
    rows = []
    cgroup = _read(root / "sys/fs/cgroup/cgroup.controllers")
    if cgroup:
        rows.append(Row("cgroup v2", "ok", cgroup))
    else:
        hint = "boot with systemd.unified_cgroup_hierarchy=1"
        rows.append(Row("cgroup v2", "lack", "not mounted at /sys/fs/cgroup", hint))
    cpu = root / "sys/devices/system/cpu"
    governor = _read(cpu / "cpu0/cpufreq/scaling_governor")
    if governor in {"performance", ""}:
        rows.append(Row("CPU governor", "ok", governor or "none (the host of this machine rules)"))
    else:
        hint = "for steady figures: cpupower frequency-set -g performance"
        rows.append(Row("CPU governor", "note", governor, hint))
    smt = _read(cpu / "smt/control")
    hint = "for steady figures: echo off > /sys/devices/system/cpu/smt/control"
    on = smt == "on"
    rows.append(Row("SMT", "note" if on else "ok", smt or "unknown", hint if on else ""))
    memory = _meminfo(root)
    huge = _read(root / "sys/kernel/mm/transparent_hugepage/enabled") or "unknown"
    found = f"transparent: {huge}; reserved: {memory.get('HugePages_Total', 0)}"
    rows.append(Row("huge pages", "ok", found))
    ksm = {"1": "on", "0": "off"}.get(_read(root / "sys/kernel/mm/ksm/run"), "not in this kernel")
    rows.append(Row("KSM", "ok", ksm))
    return rows


def _meminfo(root: Path) -> dict[str, int]:
    """/proc/meminfo as it is: KiB, or counts."""
    pairs = (line.split(":") for line in _read(root / "proc/meminfo").splitlines() if ":" in line)
    return {name: int(value.split()[0]) for name, value in pairs}


def room_rows(root: Path, cache: Path) -> list[Row]:
    """Memory, and disk space where images are kept."""
    available = _meminfo(root).get("MemAvailable", 0) * 1024
    hint = "" if available >= NEED_MEMORY else "end other programs, or add memory"
    rows = [Row("memory", "lack" if hint else "ok", f"{available / GIB:.1f} GiB available", hint)]
    place = next(path for path in (cache, *cache.parents) if path.exists())
    free = shutil.disk_usage(place).free
    built = any(current for _folder, _manifest, current in store.list_images(cache))
    found = f"{free / GIB:.1f} GiB free at {cache}" + (", images built" if built else "")
    hint = f"free {NEED_DISK / GIB:.0f} GiB, or set XDG_CACHE_HOME to a larger disk"
    short = free < NEED_DISK and not built
    return [*rows, Row("image cache", "lack" if short else "ok", found, hint if short else "")]


def program_rows(which: Callable[[str], str | None] = shutil.which) -> list[Row]:
    """The programs that are needed, with the Debian packages that have them."""
    rows = []
    for program, package in {**EMULATOR, **PROGRAMS}.items():
        path = which(program)
        hint = "" if path else f"apt install {package}"
        rows.append(Row(program, "ok" if path else "lack", path or "missing", hint))
    return rows


def conclusion(verdict: Verdict, needed: Sequence[Row]) -> tuple[bool, str]:
    """Whether some host works, and the line that says which one "auto" takes and why.

    needed: the rows of everything without which the emulated host does not run.
    """
    choice, why = choose_auto(verdict)
    if choice == "emulated":
        missing = [row.what for row in needed if row.state == "lack"]
        if missing:
            return False, f"auto: no host works: {why}; and the emulated host lacks " + ", ".join(
                missing
            )
    return True, f"auto: {choice}: {why}"


def show(rows: Sequence[Row], console: Console) -> None:
    """Print the table; state as a word too, so that it needs no colour."""
    table = Table(title="What this machine can do", title_justify="left")
    for column in ("what", "state", "found", "hint"):
        table.add_column(column, overflow="fold")
    for row in rows:
        state = Text(row.state, style=STYLES[row.state])
        table.add_row(Text(row.what), state, Text(row.found), Text(row.hint))
    console.print(table)


def main(
    console: Console | None = None, *, root: Path = Path("/"), cache: Path | None = None
) -> int:
    """Print everything; 0 when some host works, 1 when none does."""
    console = console or Console()
    verdict = probe_local(root)
    needed = program_rows() + room_rows(root, cache or store.default_cache())
    show([*kvm_rows(root, verdict), *device_rows(root), *system_rows(root), *needed], console)
    works, line = conclusion(verdict, needed)
    console.print(Text(line), soft_wrap=True)
    return 0 if works else 1
