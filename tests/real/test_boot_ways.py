"""Guests that boot without the kernel's PVH note, and disks that cannot boot."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest

from harness.guest.factory import GuestFactory
from harness.guest.guest import Guest
from harness.guest.image import with_kernel
from images import cpio
from images.image import GuestImage
from tests.real.conftest import Inner

UNKNOWN_LOADER = "255"  # PVH kernels see the type of Xen instead


def check_boot(guest: Guest, protocol: str) -> None:
    """Check the version of the boot protocol, the ACPI tables and the number of CPUs."""
    loader = guest.ssh.run(["cat", "/proc/sys/kernel/bootloader_type"]).stdout.strip()
    assert loader == UNKNOWN_LOADER
    assert guest.ssh.run(["cat", "/sys/kernel/boot_params/version"]).stdout.strip() == protocol
    assert guest.ssh.run(["nproc"]).stdout == "2\n"
    assert "way=this" in guest.ssh.run(["cat", "/proc/cmdline"]).stdout
    assert "ACPI: RSDP 0x00000000000E0000" in guest.ssh.run(["dmesg"]).stdout


def test_bzimage_boots(guests: GuestFactory, image: GuestImage, tmp_path: Path) -> None:
    packed = with_kernel(image, image.bzimage, "linux64", tmp_path)
    assert packed.kernel == image.bzimage
    guest = guests(image=packed, boot="linux64", vcpus=2, memory=256, cmdline="way=this")
    check_boot(guest, "0x020f")  # the file's own setup header


def test_vmlinux_boots_at_its_elf_entry(guests: GuestFactory) -> None:
    guest = guests(boot="linux64", vcpus=2, memory=256, cmdline="way=this")
    check_boot(guest, "0x020c")


INIT = """
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <unistd.h>

int main(void)
{
    char text[4096];
    mkdir("/proc", 0755);
    mount("proc", "/proc", "proc", 0, 0);
    int file = open("/proc/partitions", O_RDONLY);
    ssize_t size = read(file, text, sizeof text);
    write(1, "disks:\\n", 7);
    write(1, text, size > 0 ? size : 0);
    write(1, "end\\n", 4);
    reboot(RB_POWER_OFF);
    return 0;
}
"""


def test_guest_runs_from_its_initramfs(
    guests: GuestFactory, image: GuestImage, tmp_path: Path
) -> None:
    (tmp_path / "init.c").write_text(INIT)
    build: list[str | Path] = ["cc", "-static", "-Os", "-o", tmp_path / "init", tmp_path / "init.c"]
    subprocess.run(build, check=True, capture_output=True)
    archive = cpio.Cpio()
    archive.add_file("init", (tmp_path / "init").read_bytes(), 0o755)
    (tmp_path / "initramfs").write_bytes(bytes(archive))
    alone = dataclasses.replace(image, initramfs=tmp_path / "initramfs")
    guest = guests.launch(image=alone, root="initramfs")
    assert guest.wait_end().reason == "power-off"
    lines = guest.console.tail()
    assert lines[lines.index("disks:") + 1] == "end", "no disk"


@pytest.mark.parametrize("boot", ["auto", "linux64"])
def test_disk_with_boot_sector_is_refused(
    inner: Inner, image: GuestImage, tmp_path: Path, boot: str
) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(510) + b"\x55\xaa" + bytes(4096))
    result = inner("def test_it(guest): pass", f"--guest-kernel={disk}", f"--guest-boot={boot}")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "*ImageError: *a disk with a DOS/MBR boot sector, which needs firmware to boot*",
            "*hint: extract its kernel and initramfs, and pass those*",
        ]
    )
