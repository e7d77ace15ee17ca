"""Guests run a stock kernel on KVM under the built-in VMM, with SSH through vsock."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from harness.guest.factory import GuestFactory
from harness.guest.guest import Guest
from harness.hosts.base import Host
from harness.hypervisors.qemu import QemuHypervisor
from images.image import GuestImage
from tests.real.conftest import factory, kvm_holders, kvm_pids

TWO_MB = 2_000_000


def test_guest_runs_the_images_kernel_on_kvm(real_guest: Guest) -> None:
    assert real_guest.ssh.run(["uname", "-r"]).stdout.strip() == real_guest.spec.image.release
    assert "Hypervisor detected: KVM" in real_guest.ssh.run(["dmesg"]).stdout
    firmware = real_guest.ssh.run("cat /sys/class/dmi/id/sys_vendor || true").stdout
    assert firmware == "", "the guest has no firmware"


def test_built_in_vmm_runs_the_guest(real_guest: Guest, emulated_host: Host) -> None:
    pid = int(real_guest.facts["pid"])
    assert real_guest.facts["vmm"] == "harness"
    holders = kvm_holders(emulated_host)
    assert pid in {one for one, _ in holders}
    assert {program for _, program in holders} == {"python3.11"}
    argv = emulated_host.run(["cat", f"/proc/{pid}/cmdline"]).stdout.split("\0")
    assert argv[0] == "python3"
    assert not emulated_host.run(["pgrep", "-f", "^qemu-system"], check=False).stdout


def test_qemu_runs_its_guest(emulated_host: Host, image: GuestImage) -> None:
    ours = kvm_pids(emulated_host)
    qemu = QemuHypervisor(emulated_host, lambda text: None)
    try:
        guest = factory(qemu, image, lambda guest: None)("peer")
        assert {(int(guest.facts["pid"]), "qemu-system-x86_64")} == {
            one for one in kvm_holders(emulated_host) if one[0] not in ours
        }
        assert guest.ssh.run(["uname", "-r"]).stdout.strip() == image.release
        assert "Hypervisor detected: KVM" in guest.ssh.run(["dmesg"]).stdout
        with guest.expect_end("panic"):
            guest.ssh.run("hv-end panic; sleep 20")
    finally:
        qemu.close()
    assert kvm_pids(emulated_host) == ours


def test_guest_has_requested_vcpus_and_memory(real_guest: Guest, guests: GuestFactory) -> None:
    assert real_guest.ssh.run(["nproc"]).stdout == "2\n"
    # the kernel keeps up to a sixth of a small guest for itself
    assert 0.8 * 256 < total_memory(real_guest) < 256
    larger = guests("larger", memory=512)
    assert larger.ssh.run(["nproc"]).stdout == "1\n"
    assert 0.9 * 512 < total_memory(larger) < 512


def total_memory(guest: Guest) -> float:
    """Memory that the guest sees, in MiB."""
    return int(guest.ssh.run("grep MemTotal /proc/meminfo").stdout.split()[1]) / 1024


def test_files_of_two_megabytes_are_copied_intact(real_guest: Guest, tmp_path: Path) -> None:
    data = os.urandom(TWO_MB)
    (tmp_path / "data").write_bytes(data)
    real_guest.ssh.put(tmp_path / "data", "/tmp/data")
    there = real_guest.ssh.run(["sha256sum", "/tmp/data"]).stdout.split()[0]
    assert there == hashlib.sha256(data).hexdigest()
    assert real_guest.ssh.get("/tmp/data") == data
    real_guest.ssh.run(["rm", "/tmp/data"])


def test_statistics_grow_with_work(real_guest: Guest) -> None:
    before = real_guest.statistics()
    # no test reads these blocks, so that the guest's page cache does not have them
    real_guest.ssh.run("dd if=/dev/vda of=/dev/null bs=64k count=16 skip=1000 iflag=direct")
    after = real_guest.statistics()
    assert after["exits"] > before["exits"] > 0
    assert after["cpu_ns"] > before["cpu_ns"] > 0
    assert after["block_requests_root"] >= before["block_requests_root"] + 16 > 16
    assert after["user_exits"] >= before["user_exits"] > 0


def test_panic_does_not_affect_another_guest(real_guest: Guest, guests: GuestFactory) -> None:
    across = real_guest.ssh.popen("echo start; sleep 3; echo end")
    assert across.readline() == b"start\n"
    other = guests("other")
    across_panic = real_guest.ssh.popen("echo start; read line; echo $line")
    assert across_panic.readline() == b"start\n"
    with other.expect_end("panic") as gone:
        other.ssh.run("hv-end panic; sleep 20")
    assert gone.end.detail.endswith("sysrq triggered crash")
    across_panic.write(b"still here\n")
    assert across_panic.readline() == b"still here\n"
    assert (across.readline(), across.wait(10.0)) == (b"end\n", 0)
    assert across_panic.wait(10.0) == 0
    assert not real_guest.ended.is_set()


def test_ssh_server_opens_files_by_preloaded_functions(real_guest: Guest, tmp_path: Path) -> None:
    """See images/guest/preload.c."""
    program = tmp_path / "dropbear"
    program.write_bytes(real_guest.ssh.get("/usr/sbin/dropbear"))
    argv = ["nm", "--dynamic", "--undefined-only", str(program)]
    symbols = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    names = {line.split()[-1].partition("@")[0] for line in symbols.splitlines()}
    assert {name for name in names if "open" in name} == {"open", "fopen", "openlog", "openpty"}
