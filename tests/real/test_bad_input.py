"""Invalid input is an error with cause and hint, and leaves no guest."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.errors import CommandError, HarnessError, ProvisionError, SSHError
from harness.guest.factory import GuestFactory
from harness.guest.guest import Guest
from harness.hosts.base import Host
from harness.hypervisors.base import Disk
from harness.hypervisors.kvm import KvmHypervisor
from images.image import GuestImage
from images.keys import Keys, ensure_keys
from suites.io.fio import Job
from tests.real.conftest import BorrowedHost, Inner, factory, kvm_pids

ONE_TEST = "def test_it(guest): pass"


@pytest.fixture(autouse=True)
def no_guest_is_left(emulated_host: Host, real_guest: Guest) -> Any:
    """Check that the test leaves no guest."""
    before = kvm_pids(emulated_host)
    yield
    assert kvm_pids(emulated_host) == before


# -- memory ----------------------------------------------------------------------------------------


def test_too_little_memory_hints_at_enough(inner: Inner, guests: GuestFactory) -> None:
    result = inner(ONE_TEST, "--guest-memory=32")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "*ProvisionError: *stage create, guest *does not fit into 32 MiB of memory",
            "*hint: request at least * MiB (--guest-memory)",
        ]
    )
    # each hint names more memory; the last one is enough
    memory, guest = 32, None
    while guest is None:
        hinted = 0
        try:
            guest = guests(memory=memory)
        except ProvisionError as error:
            match = re.search(r"at least (\d+) MiB", error.hint)
            hinted = int(match[1]) if match else 0
        assert guest or hinted > memory
        memory = hinted
    guest.ssh.run(["true"])
    guest.stop()


# -- kernel ----------------------------------------------------------------------------------------


def test_file_without_kernel_is_refused(inner: Inner) -> None:
    result = inner(ONE_TEST, "--guest-kernel=/etc/passwd")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "*ImageError: *stage image* kernel /etc/passwd is no Linux kernel: neither ELF *",
            "*hint: use a bzImage or vmlinux of Linux *",
        ]
    )


def test_truncated_kernel_is_refused(
    guests: GuestFactory, image: GuestImage, tmp_path: Path
) -> None:
    data = image.kernel.read_bytes()
    (tmp_path / "vmlinux").write_bytes(data[: len(data) // 2])
    with pytest.raises(ProvisionError, match=r"kernel /dev/\w+ is truncated") as caught:
        guests(image=dataclasses.replace(image, kernel=tmp_path / "vmlinux"))
    assert caught.value.hint
    assert caught.value.stage == "create"


# -- disks -----------------------------------------------------------------------------------------


def truncate_root_disk(image: GuestImage, path: Path, size: int) -> Path:
    """Write the root disk's bytes [:size] to `path`."""
    path.unlink(missing_ok=True)
    path.write_bytes(image.disk.read_bytes()[:size])
    return path


@pytest.mark.parametrize("size", [-513, 70 << 20], ids=["odd", "half"])
def test_image_with_truncated_root_disk_is_refused(
    inner: Inner, image: GuestImage, image_copy: Path, size: int
) -> None:
    truncate_root_disk(image, image_copy / "disk", size)
    result = inner(ONE_TEST, f"--guest-image={image_copy}")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*ImageError: *stage image*the image is broken: */disk does not have its checksum*"]
    )
    result.stdout.fnmatch_lines(["*hint: *"])


def test_truncated_root_disk_fails_provisioning(
    guests: GuestFactory, image: GuestImage, tmp_path: Path
) -> None:
    disks = [truncate_root_disk(image, tmp_path / str(size), size) for size in (-513, 70 << 20)]
    pair = [guests.launch(image=dataclasses.replace(image, disk=disk)) for disk in disks]
    for guest in pair:
        with pytest.raises(
            ProvisionError, match="the guest's init failed: mount of the root"
        ) as caught:
            guest.wait_ready()
        assert caught.value.stage == "sshd"
        assert any("harness: failed" in line for line in caught.value.console)


def test_truncated_extra_disk_is_refused(
    guests: GuestFactory, emulated_host: Host, tmp_path: Path
) -> None:
    (tmp_path / "disk").write_bytes(bytes(1000))
    disk = Disk(emulated_host.place(tmp_path / "disk"), "extra")
    with pytest.raises(ProvisionError, match="1000 bytes is not a whole number of") as caught:
        guests(disks=[disk])
    assert "truncated" in caught.value.hint
    with pytest.raises(ProvisionError, match="disk /none: No such file"):
        guests(disks=[Disk("/none", "extra")])


def test_disk_truncated_under_a_running_guest_gives_io_errors(
    guests: GuestFactory, emulated_host: Host
) -> None:
    path = f"{emulated_host.scratch()}/cut"
    emulated_host.run(["dd", "if=/dev/zero", f"of={path}", "bs=1M", "count=4", "status=none"])
    guest = guests(disks=[Disk(path, "extra", backend="process")])
    read = ["dd", "if=/dev/disk/by-serial/extra", "of=/dev/null", "iflag=direct", "bs=64k"]
    guest.ssh.run(read)
    emulated_host.run(["truncate", "-s", "100k", path])
    failed = guest.ssh.run(read, check=False)
    assert failed.status == 1
    assert "Input/output error" in failed.stderr
    guest.ssh.run(["true"])
    guest.stop()


def test_full_host_disk_fails_fio_and_not_the_guest(
    guests: GuestFactory, emulated_host: Host
) -> None:
    full = f"{emulated_host.scratch()}/full"
    emulated_host.run(["mkdir", full])
    emulated_host.run(["mount", "-t", "tmpfs", "-o", "size=4m", "full", full])
    try:
        emulated_host.run(["truncate", "-s", "32M", f"{full}/disk"])
        guest = guests(memory=256, disks=[Disk(f"{full}/disk", "extra", readonly=False)])
        job = Job(rw="randwrite", depth=4, size=32, warm_up=0, runtime=30)
        with pytest.raises(CommandError, match=r"fio .*(Input/output error|No space left)"):
            guest.ssh.run(job.argv("/dev/disk/by-serial/extra", job.runtime), timeout=job.timeout)
        guest.ssh.run(["true"])
        guest.stop()
    finally:
        emulated_host.run(["umount", "--lazy", full])
        emulated_host.run(["rmdir", full])


def test_image_deleted_during_the_run_is_reported(
    inner: Inner, image_copy: Path, pytester: pytest.Pytester
) -> None:
    disk = image_copy / "disk"
    result = inner(
        f"""
        import pathlib

        def test_first(guest, ssh):
            pathlib.Path({str(disk)!r}).unlink()
            ssh.run(["true"])

        def test_second(guest): pass
        """,
        f"--guest-image={image_copy}",
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            f"*ImageError: *stage image*the image in use was damaged: {disk}: No such file *",
            "*hint: *",
        ]
    )


# -- SSH -------------------------------------------------------------------------------------------


def test_wrong_ssh_keys_are_refused(
    guests: GuestFactory, image: GuestImage, tmp_path: Path
) -> None:
    other: Keys = ensure_keys(tmp_path / "keys")
    wrong_key = dataclasses.replace(image, client_key=other.client)
    wrong_host = dataclasses.replace(image, host_key=other.host_public)
    pair = [guests.launch(image=one) for one in (wrong_key, wrong_host)]
    for guest, cause, hint in zip(
        pair,
        ("does not accept the client key for user 'root'", "has another host key than the known"),
        ("add the public key to authorized_keys", "check which machine answers"),
        strict=True,
    ):
        with pytest.raises(SSHError, match=cause) as caught:
            guest.wait_ready()
        assert caught.value.hint.startswith(hint)
        assert (caught.value.stage, caught.value.guest) == ("ready", guest.name)
        assert any("harness: sshd" in line for line in caught.value.console)
        guest.stop()


# -- permissions -----------------------------------------------------------------------------------


class Unprivileged(BorrowedHost):
    """The host for a user that may not use KVM."""

    def spawn(self, argv: Sequence[str]) -> object:
        drop = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
        return self._host.spawn([*drop, *argv])


def test_missing_permission_on_kvm_is_reported(emulated_host: Host, image: GuestImage) -> None:
    hypervisor = KvmHypervisor(Unprivileged(emulated_host), lambda text: None)  # type: ignore[arg-type]
    with pytest.raises(HarnessError, match="/dev/kvm: permission denied") as caught:
        factory(hypervisor, image, lambda guest: None)()
    assert "group kvm" in caught.value.hint
    assert caught.value.stage == "create"
    hypervisor.close()
