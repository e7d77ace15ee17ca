"""Checks whether this machine's KVM runs stock guests, without changing anything."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.hosts import kvm_probe
from harness.hosts.facts import parse_cpuinfo

PROBE_TIMEOUT = 2.0  # seconds; a VM of one page takes a few milliseconds
_OTHER_MACHINE_HINT = "use a machine with vmx or svm, or enable nested virtualization for this one"


@dataclass(frozen=True)
class Obstacle:
    """A reason why guests cannot run, and its remedy; one sentence each."""

    cause: str
    hint: str


@dataclass(frozen=True)
class Verdict:
    """The result of a probe. backend: "vmx", "svm", "pvm" or "none". usable: stock guests run."""

    backend: str
    obstacles: tuple[Obstacle, ...] = ()

    @property
    def usable(self) -> bool:
        """True when stock guests run."""
        return not self.obstacles

    @property
    def cause(self) -> str:
        """The first obstacle's cause. Later obstacles often follow from it."""
        return self.obstacles[0].cause if self.obstacles else ""

    @property
    def hint(self) -> str:
        """The first obstacle's remedy."""
        return self.obstacles[0].hint if self.obstacles else ""


def run_vm_probe(device: Path) -> str:
    """Run a guest of one page on `device`. Returns the failure, or ""."""
    argv = [sys.executable, "-I", "-S", str(Path(kvm_probe.__file__)), str(device)]
    try:
        result = subprocess.run(
            argv, capture_output=True, text=True, timeout=PROBE_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return f"a one-page guest did not end in {PROBE_TIMEOUT:g} s"
    line = (result.stdout or result.stderr).strip().rpartition("\n")[2]
    return "" if result.returncode == 0 else line or f"exit status {result.returncode}"


def probe_local(
    root: Path = Path("/"),
    *,
    access: Callable[[Path, int], bool] = os.access,
    vm_probe: Callable[[Path], str] = run_vm_probe,
) -> Verdict:
    """Probe the machine whose /dev, /proc and /sys are below `root`.

    access, vm_probe: replaced by tests.
    """
    device = root / "dev/kvm"
    flag = _virtualization_flag(root)
    if not device.exists():
        return Verdict("none", (_no_device(root, flag),))
    if (root / "sys/module/kvm_pvm").exists():
        cause = "/dev/kvm is a software KVM (module kvm_pvm), which does not boot stock kernels"
        return Verdict("pvm", (Obstacle(cause, _OTHER_MACHINE_HINT),))
    if not flag:
        cause = "/dev/kvm exists, but the CPU shows neither vmx nor svm"
        return Verdict("none", (Obstacle(cause, _OTHER_MACHINE_HINT),))
    if not access(device, os.R_OK | os.W_OK):
        return Verdict(flag, (_no_rights(device),))
    if problem := vm_probe(device):
        return Verdict(flag, (_failed_probe(problem),))
    return Verdict(flag)


def probe_payloads(
    device: Path = Path("/dev/kvm"),
    *,
    access: Callable[[Path, int], bool] = os.access,
    vm_probe: Callable[[Path], str] = run_vm_probe,
) -> Obstacle | None:
    """The obstacle to flat code on this machine's KVM, which may be a software one; or None."""
    if not device.exists():
        return Obstacle(f"{device} is missing", "load the module kvm_intel or kvm_amd")
    if not access(device, os.R_OK | os.W_OK):
        return _no_rights(device)
    if problem := vm_probe(device):
        return _failed_probe(problem)
    return None


def _failed_probe(problem: str) -> Obstacle:
    return Obstacle(f"KVM does not run a guest: {problem}", "read KVM's messages in dmesg")


def _virtualization_flag(root: Path) -> str:
    """The CPU flag "vmx" or "svm" in /proc/cpuinfo, or ""."""
    try:
        lines = (root / "proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    flags = parse_cpuinfo(lines)[1].get("flags", "").split()
    return next((flag for flag in ("vmx", "svm") if flag in flags), "")


def _no_device(root: Path, flag: str) -> Obstacle:
    if flag:
        module = {"vmx": "kvm_intel", "svm": "kvm_amd"}[flag]
        if (root / "sys/module" / module).exists():
            return Obstacle(
                f"/dev/kvm is missing although {module} is loaded",
                "in a container, add the device: --device /dev/kvm",
            )
        return Obstacle(
            f"/dev/kvm is missing: the module {module} is not loaded",
            f"run modprobe {module} as root; if it fails, enable virtualization in the firmware",
        )
    return Obstacle(
        "/dev/kvm is missing, and the CPU shows neither vmx nor svm",
        "enable virtualization in the firmware, or nested virtualization on this machine's host",
    )


def _no_rights(device: Path) -> Obstacle:
    try:
        group = device.group()
    except (KeyError, OSError):
        group = "kvm"
    if group == "root":
        hint = f"run as root: chgrp kvm {device}; chmod 660 {device}; then join the group kvm"
    else:
        hint = f"run as root: usermod -aG {group} YOUR_NAME; then log in again"
    return Obstacle("this user may not open /dev/kvm for reading and writing", hint)
