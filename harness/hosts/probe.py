"""Can this machine's KVM run stock guests? Looks, and changes nothing."""

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


@dataclass(frozen=True)
class Lack:
    """Something that stands in the way, and what to do about it; a sentence each."""

    cause: str
    hint: str


@dataclass(frozen=True)
class Verdict:
    """What was found. backend: "vmx", "svm", "pvm" or "none". usable: stock guests run."""

    backend: str
    lacks: tuple[Lack, ...] = ()

    @property
    def usable(self) -> bool:
        return not self.lacks

    @property
    def cause(self) -> str:
        """The first lack's cause; the others often follow from it."""
        return self.lacks[0].cause if self.lacks else ""

    @property
    def hint(self) -> str:
        return self.lacks[0].hint if self.lacks else ""


def run_vm_probe(device: Path) -> str:
    """Run a VM of one page on `device`; what is wrong, or ""."""
    argv = [sys.executable, "-I", "-S", str(Path(kvm_probe.__file__)), str(device)]
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=PROBE_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return f"a one-page guest did not end in {PROBE_TIMEOUT:g} s"
    said = (done.stdout or done.stderr).strip().rpartition("\n")[2]
    return "" if done.returncode == 0 else said or f"the probe ended with {done.returncode}"


def probe_local(
    root: Path = Path("/"),
    *,
    access: Callable[[Path, int], bool] = os.access,
    vm_probe: Callable[[Path], str] = run_vm_probe,
) -> Verdict:
    """Judge the machine whose /dev, /proc and /sys are below `root`."""
    device = root / "dev/kvm"
    flag = _flag(root)
    if not device.exists():
        return Verdict("none", (_no_device(root, flag),))
    if (root / "sys/module/kvm_pvm").exists():
        pvm = Lack(
            "/dev/kvm is a software KVM (module kvm_pvm), which does not boot stock kernels",
            "use a machine with vmx or svm, or nested virtualization for this one",
        )
        return Verdict("pvm", (pvm,))
    if not flag:
        lack = Lack(
            "/dev/kvm is there, but the CPU shows neither vmx nor svm",
            "use a machine with vmx or svm, or nested virtualization for this one",
        )
        return Verdict("none", (lack,))
    if not access(device, os.R_OK | os.W_OK):
        return Verdict(flag, (_no_rights(device),))
    if problem := vm_probe(device):
        lack = Lack(f"KVM does not run a guest: {problem}", "see dmesg for KVM's own words")
        return Verdict(flag, (lack,))
    return Verdict(flag)


def probe_payloads(
    device: Path = Path("/dev/kvm"),
    *,
    access: Callable[[Path, int], bool] = os.access,
    vm_probe: Callable[[Path], str] = run_vm_probe,
) -> Lack | None:
    """Why flat code cannot run on this machine's KVM, be it a software one; None when it can."""
    if not device.exists():
        return Lack(f"there is no {device}", "load kvm_intel or kvm_amd")
    if not access(device, os.R_OK | os.W_OK):
        return _no_rights(device)
    if problem := vm_probe(device):
        return Lack(f"KVM does not run a guest: {problem}", "see dmesg for KVM's own words")
    return None


def _flag(root: Path) -> str:
    """ "vmx", "svm" or "" by /proc/cpuinfo."""
    try:
        lines = (root / "proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    flags = parse_cpuinfo(lines)[1].get("flags", "").split()
    return next((flag for flag in ("vmx", "svm") if flag in flags), "")


def _no_device(root: Path, flag: str) -> Lack:
    if flag:
        module = {"vmx": "kvm_intel", "svm": "kvm_amd"}[flag]
        if (root / "sys/module" / module).exists():
            return Lack(
                f"/dev/kvm is missing although {module} is loaded",
                "in a container, give it the device (--device /dev/kvm)",
            )
        return Lack(
            f"/dev/kvm is missing: the module {module} is not loaded",
            f"modprobe {module} as root; if it refuses, enable virtualization in the firmware",
        )
    return Lack(
        "/dev/kvm is missing, and the CPU shows neither vmx nor svm",
        "enable virtualization in the firmware, or nested virtualization on this machine's host",
    )


def _no_rights(device: Path) -> Lack:
    try:
        group = device.group()
    except (KeyError, OSError):
        group = "kvm"
    if group == "root":
        hint = f"as root: chgrp kvm {device}; chmod 660 {device}; then join the group kvm"
    else:
        hint = f"as root: usermod -aG {group} YOUR_NAME, then log in again"
    return Lack("this user may not open /dev/kvm for reading and writing", hint)
