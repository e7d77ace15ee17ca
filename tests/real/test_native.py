"""Native guests: the guest image as a container on the host's own kernel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

import pytest

from harness.errors import ProvisionError
from harness.guest.factory import GuestFactory
from harness.guest.guest import Guest
from harness.hosts.base import Host
from harness.hosts.emulated import EmulatedHost
from harness.hypervisors.base import Disk
from harness.hypervisors.native import NativeHypervisor
from images.image import GuestImage
from tests.conftest import EmulatedHosts
from tests.real.conftest import Inner, factory


@pytest.fixture(scope="module")
def native(
    emulated_hosts: EmulatedHosts, emulated_host: EmulatedHost, image: GuestImage
) -> GuestFactory:
    def make() -> NativeHypervisor:
        return NativeHypervisor(emulated_host, lambda text: None)

    hypervisor = emulated_hosts.keep("native", make, NativeHypervisor.close)
    return factory(hypervisor, image, lambda guest: None)


@pytest.fixture
def container(native: GuestFactory) -> Iterator[Guest]:
    guest = native("container")
    yield guest
    guest.stop()


def output_of(guest: Guest, command: str) -> str:
    return guest.ssh.run(command).stdout.strip()


def test_container_runs_the_image_on_the_hosts_kernel(
    container: Guest, emulated_host: Host
) -> None:
    boot_id = "cat /proc/sys/kernel/random/boot_id"
    assert output_of(container, boot_id) == emulated_host.run(boot_id.split()).stdout.strip()
    assert output_of(container, "cat /proc/sys/kernel/hostname") == "guest"
    assert output_of(container, "cat /proc/1/comm") == "init"
    assert "hv-exits" in output_of(container, "ls /usr/local/bin")
    assert str(container.address) in output_of(container, "ip -4 addr show eth0")
    assert output_of(container, "cat /proc/cmdline").startswith("harness.ip=")
    assert container.facts["vmm"] == "none"
    assert [name for name in container.timeline.stages if container.timeline.reached(name)] == [
        "create", "init", "sshd", "ready",
    ]  # fmt: skip


def test_container_has_the_requested_cpus(native: GuestFactory, emulated_host: Host) -> None:
    guest = native("one", vcpus=1)
    both = native("both", vcpus=2)
    assert output_of(guest, "nproc") == "1"
    assert output_of(both, "nproc") == str(emulated_host.facts.cpus)
    before = guest.statistics()["cgroup_cpu_usec"]
    guest.ssh.run("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")
    assert guest.statistics()["cgroup_cpu_usec"] > before + 10_000
    guest.stop()
    both.stop()


def test_disk_is_a_file_of_the_host(native: GuestFactory, emulated_host: Host) -> None:
    path = str(PurePosixPath(emulated_host.scratch()) / "native-disk")
    emulated_host.run(["dd", "if=/dev/zero", f"of={path}", "bs=1M", "count=2", "status=none"])
    guest = native("disk", disks=[Disk(path, "own", readonly=False), Disk(path, "ro")])
    guest.ssh.run("printf mark | dd of=/dev/disk/by-serial/own conv=notrunc status=none")
    assert emulated_host.run(["head", "-c", "4", path]).stdout == "mark"
    refused = guest.ssh.run("printf no | dd of=/dev/disk/by-serial/ro conv=notrunc", check=False)
    assert "Read-only" in refused.stderr
    guest.stop()
    emulated_host.run(["rm", path])


def test_container_has_no_privileged_capabilities(container: Guest) -> None:
    """CAP_SYS_MODULE, CAP_SYS_RAWIO and CAP_SYS_TIME (linux/capability.h)."""
    for which in ("CapInh", "CapPrm", "CapEff", "CapBnd"):
        capabilities = int(output_of(container, f"grep {which} /proc/self/status").split()[1], 16)
        assert bool(capabilities) == (which != "CapInh")
        assert not capabilities & (1 << 16 | 1 << 17 | 1 << 25)
    # a reset through the ports of the keyboard controller and the chipset fails
    assert container.ssh.run(["hv-end", "reset"], check=False).status
    container.check_alive()


@pytest.mark.parametrize(("command", "reason"), [("12", "power-off"), ("15", "reset")])
def test_end_is_reported(native: GuestFactory, command: str, reason: str) -> None:
    """For init, SIGUSR2 is power-off and SIGTERM is reboot. The host is not affected."""
    guest = native("end")
    with guest.expect_end(reason):
        guest.ssh.run(f"kill -{command} 1; sleep 10", check=False)


def test_container_leaves_no_mounts_links_or_processes(
    native: GuestFactory, emulated_host: Host
) -> None:
    def mounts_and_links() -> list[str]:
        mounts = emulated_host.run(["cat", "/proc/mounts"]).stdout.splitlines()
        links = native.hypervisor.in_network(["ip", "-o", "link"])  # type: ignore[attr-defined]
        devices = [line.split()[1] for line in emulated_host.run(links).stdout.splitlines()]
        return sorted(mounts) + sorted(devices)

    before = mounts_and_links()
    guest = native("passing")
    assert mounts_and_links() != before
    pid = guest.facts["pid"]
    guest.ssh.run("nohup sleep 1000 >/dev/null 2>&1 &")
    guest.stop()
    assert mounts_and_links() == before
    assert emulated_host.run(["test", "-e", f"/proc/{pid}"], check=False).status == 1
    assert emulated_host.run(["pgrep", "-f", "sleep 1000"], check=False).stdout == ""


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ({"vmm": {"balloon": False}}, "is for the built-in VMM"),
        ({"ssh": "vsock"}, "it has no vsock"),
        ({"hugepages": True}, "its memory is the host's own"),
        ({"disks": [Disk("/x", "x", format="qcow2")]}, "raw, without an overlay"),
        ({"disks": [Disk("/no/such", "x")]}, "/no/such"),
    ],
)
def test_unsupported_options_of_containers_are_refused(
    native: GuestFactory, arguments: dict[str, object], cause: str
) -> None:
    with pytest.raises(ProvisionError, match=cause):
        native("refused", **arguments)  # type: ignore[arg-type]


def test_vm_options_do_not_apply_to_the_native_baseline(inner: Inner) -> None:
    """The implied native hypervisor ignores options that only VMs support."""
    source = """
        import pytest

        @pytest.mark.compare_native
        def test_it(guest, hypervisor):
            assert guest.ssh.run(["true"]).status == 0
    """
    result = inner(source, "--guest-ssh=vsock", "--guest-root=pmem")
    result.assert_outcomes(passed=2)
