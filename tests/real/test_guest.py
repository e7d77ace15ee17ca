"""What a guest is: a stock kernel on a real KVM, run by our VMM, reached by SSH through vsock."""

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


def test_it_is_the_images_kernel_and_sees_kvm(standing: Guest) -> None:
    assert standing.ssh.run(["uname", "-r"]).stdout.strip() == standing.spec.image.release
    assert "Hypervisor detected: KVM" in standing.ssh.run(["dmesg"]).stdout
    firmware = standing.ssh.run("cat /sys/class/dmi/id/sys_vendor || true").stdout
    assert firmware == "", "there is no firmware, least of all QEMU's"


def test_our_vmm_runs_it_and_no_qemu(standing: Guest, emulated_host: Host) -> None:
    pid = int(standing.facts["pid"])
    assert standing.facts["vmm"] == "harness"
    holders = kvm_holders(emulated_host)
    assert pid in {one for one, _ in holders}
    assert {program for _, program in holders} == {"python3.11"}
    argv = emulated_host.run(["cat", f"/proc/{pid}/cmdline"]).stdout.split("\0")
    assert argv[0] == "python3"
    assert not emulated_host.run(["pgrep", "-f", "^qemu-system"], check=False).stdout


def test_qemu_runs_its_guest_and_we_do_not(emulated_host: Host, image: GuestImage) -> None:
    ours = kvm_pids(emulated_host)
    qemu = QemuHypervisor(emulated_host, lambda text: None)
    try:
        guest = factory(qemu, image, lambda made: None)("peer")
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


def test_vcpus_and_memory_are_as_ordered(standing: Guest, guests: GuestFactory) -> None:
    assert standing.ssh.run(["nproc"]).stdout == "2\n"
    # the kernel keeps up to a sixth of a small guest for itself
    assert 0.8 * 256 < total_memory(standing) < 256
    larger = guests("larger", memory=512)
    assert larger.ssh.run(["nproc"]).stdout == "1\n"
    assert 0.9 * 512 < total_memory(larger) < 512


def total_memory(guest: Guest) -> float:
    """MiB."""
    return int(guest.ssh.run("grep MemTotal /proc/meminfo").stdout.split()[1]) / 1024


def test_two_megabytes_pass_both_ways_intact(standing: Guest, tmp_path: Path) -> None:
    data = os.urandom(TWO_MB)
    (tmp_path / "data").write_bytes(data)
    standing.ssh.put(tmp_path / "data", "/tmp/data")
    there = standing.ssh.run(["sha256sum", "/tmp/data"]).stdout.split()[0]
    assert there == hashlib.sha256(data).hexdigest()
    assert standing.ssh.get("/tmp/data") == data
    standing.ssh.run(["rm", "/tmp/data"])


def test_statistics_grow_with_what_the_guest_does(standing: Guest) -> None:
    before = standing.statistics()
    # never read before, so that the guest's page cache does not have it
    standing.ssh.run("dd if=/dev/vda of=/dev/null bs=64k count=16 skip=1000 iflag=direct")
    after = standing.statistics()
    assert after["exits"] > before["exits"] > 0
    assert after["cpu_ns"] > before["cpu_ns"] > 0
    assert after["block_requests_root"] >= before["block_requests_root"] + 16 > 16
    assert after["user_exits"] >= before["user_exits"] > 0


def test_a_panic_of_one_guest_does_not_touch_the_other(
    standing: Guest, guests: GuestFactory
) -> None:
    across = standing.ssh.popen("echo start; sleep 3; echo end")
    assert across.readline() == b"start\n"
    other = guests("other")
    across_panic = standing.ssh.popen("echo start; read line; echo $line")
    assert across_panic.readline() == b"start\n"
    with other.expect_end("panic") as gone:
        other.ssh.run("hv-end panic; sleep 20")
    assert gone.end.detail.endswith("sysrq triggered crash")
    across_panic.write(b"still here\n")
    assert across_panic.readline() == b"still here\n"
    assert (across.readline(), across.wait(10.0)) == (b"end\n", 0)
    assert across_panic.wait(10.0) == 0
    assert not standing.ended.is_set()


def test_the_ssh_server_opens_files_by_the_name_that_is_preloaded(
    standing: Guest, tmp_path: Path
) -> None:
    """See images/guest/preload.c."""
    program = tmp_path / "dropbear"
    program.write_bytes(standing.ssh.get("/usr/sbin/dropbear"))
    argv = ["nm", "--dynamic", "--undefined-only", str(program)]
    told = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    names = {line.split()[-1].partition("@")[0] for line in told.splitlines()}
    assert {name for name in names if "open" in name} == {"open", "fopen", "openlog", "openpty"}
