"""Snapshots of real guests, and their clones."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from harness.guest.factory import GuestFactory
from harness.guest.guest import Guest
from harness.hosts.base import Host
from harness.hypervisors.kvm import KvmHypervisor
from images.image import GuestImage
from suites import ksm
from tests.real.conftest import Inner, factory, kvm_pids
from tests.waiting import wait_until

COUNT_RESOURCES = """
import json, os, sys
def count(path):
    try: return len(os.listdir(path))
    except OSError: return 0
free = next(line for line in open("/proc/meminfo") if line.startswith("MemAvailable"))
# exclude the memory files of ended guests, which the agent frees later
def counts(link):
    try: return "memfd:guest" not in os.readlink(link)
    except OSError: return False
folder = f"/proc/{sys.argv[1]}/fd"
descriptors = [fd for fd in os.listdir(folder) if counts(f"{folder}/{fd}")]
# exclude kernel threads: their number varies
processes = [pid for pid in os.listdir("/proc") if pid.isdigit() and count(f"/proc/{pid}/fd")]
cgroups = "/sys/fs/cgroup/pytest-hypervisor"
print(json.dumps({
    "free": int(free.split()[1]) >> 10, "descriptors": len(descriptors),
    "processes": len(processes), "cgroups": sum(len(folders) for _, folders, _ in os.walk(cgroups)),
    "scratch": count("/var/tmp") + count("/dev/shm"),
}))
"""
LATE = 5  # seconds that a message to init may take on a busy machine
NEW_BYTES = "head -c 16 /dev/urandom | od -An -tx1"


@pytest.fixture(scope="module")
def family(kvm: KvmHypervisor, image: GuestImage) -> Iterator[list[Guest]]:
    """A busy guest and two clones of it.

    Each has one vCPU: with two, emulated CPUs may run stale code (see prepare_host() in
    images/guest/host.c), and clones ended by a triple fault.
    """
    created: list[Guest] = []
    make = factory(kvm, image, created.append)
    origin = make("origin")
    beat = "i=0; while :; do i=$((i+1)); echo $i >/tmp/beat; sleep 0.3; done"
    origin.ssh.run(f"echo origin >/tmp/who; ({beat}) &")
    with origin.snapshot() as taken:
        clones = [make.launch_clone(taken, f"clone {number}") for number in range(2)]
        for clone in clones:
            clone.wait_ready()
    yield [origin, *clones]
    for guest in created:
        guest.stop()


def run_in_each(family: list[Guest], command: str) -> list[str]:
    return [guest.ssh.run(command).stdout.strip() for guest in family]


def test_clones_have_distinct_identities(family: list[Guest]) -> None:
    assert len({guest.facts["cid"] for guest in family}) == len(family)
    assert len({guest.facts["pid"] for guest in family}) == len(family)
    assert len({guest.address for guest in family}) == len(family)
    for guest, other in zip(family, family[1:] + family[:1], strict=True):
        guest.ssh.run(["ping", "-c", "1", "-W", "5", str(other.address)])
    assert len(set(run_in_each(family, NEW_BYTES))) == len(family)
    assert run_in_each(family, "uname -n") == ["guest", *(guest.name for guest in family[1:])]
    origin, *clones = family
    assert "cloned_from" not in origin.facts
    assert {clone.facts["cloned_from"] for clone in clones} == {origin.name}


def test_clones_do_not_share_files(family: list[Guest]) -> None:
    for number, guest in enumerate(family):
        guest.ssh.run(f"echo {number} >>/tmp/who")
    assert run_in_each(family, "cat /tmp/who") == [
        f"origin\n{number}" for number in range(len(family))
    ]
    assert run_in_each(family, "nproc") == ["1"] * len(family)


def test_processes_continue_in_clones(family: list[Guest]) -> None:
    script = "a=$(cat /tmp/beat); for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.2; b=$(cat /tmp/beat);"
    script += ' [ -n "$b" ] && [ "$a" != "$b" ] && exit 0; done; exit 1'
    for guest in family:
        guest.ssh.run(script)


def test_clocks_are_right_and_advance(family: list[Guest], emulated_host: Host) -> None:
    for guest in family[1:]:
        before = float(emulated_host.run(["date", "+%s.%N"]).stdout)
        clock = float(guest.ssh.run(["date", "+%s.%N"]).stdout)
        after = float(emulated_host.run(["date", "+%s.%N"]).stdout)
        assert before - LATE < clock < after + 1
    up = [float(text.split()[0]) for text in run_in_each(family, "cat /proc/uptime")]
    time.sleep(0.5)
    later = [float(text.split()[0]) for text in run_in_each(family, "cat /proc/uptime")]
    assert all(a < b for a, b in zip(up, later, strict=True))
    for text in run_in_each(family, "dmesg"):
        assert "clocksource: timekeeping watchdog" not in text
        assert "soft lockup" not in text


def test_clone_has_timeline_statistics_and_console(family: list[Guest]) -> None:
    clone = family[1]
    assert list(clone.timeline.marks) == ["create", "restored", "adopted", "ready"]
    assert clone.statistics()["exits"] > 0
    clone.ssh.run("echo to the console >/dev/console")
    assert clone.console.wait_for("to the console", 10)


def spare_servers(guest: Guest) -> list[str]:
    """Process ids of SSH servers that wait for a connection by vsock."""
    script = """
        for pid in $(pgrep -x dropbear); do
            case $(cat /proc/$pid/stack) in *vsock_accept*) echo $pid;; esac
        done
    """
    return guest.ssh.run(script).stdout.split()


def wait_for_spare(guest: Guest) -> str:
    """Process id of the spare SSH server, once there is one."""
    for _ in range(50):
        servers = spare_servers(guest)
        if servers:
            assert len(servers) == 1
            return servers[0]
        time.sleep(0.2)
    pytest.fail("no spare SSH server")


def test_guest_always_has_one_spare_ssh_server(family: list[Guest]) -> None:
    """A connection, and the end of the spare server, start a new one."""
    for guest in family[:2]:
        before = wait_for_spare(guest)
        for _ in range(3):
            guest.machine.connect(22, 10.0).close()
        stray = guest.machine.connect(22, 10.0)
        guest.ssh.connect(30.0)
        stray.close()
        assert wait_for_spare(guest) != before
        guest.ssh.run(["kill", "-9", wait_for_spare(guest)])
        guest.ssh.connect(30.0)
        wait_for_spare(guest)


def test_snapshot_has_a_spare_ssh_server(guests: GuestFactory) -> None:
    """Also if a login has just taken the spare server."""
    guest = guests("prepared")
    guest.ssh.disconnect()
    guest.ssh.connect(30.0)
    guest.ssh.disconnect()
    with guest.snapshot() as taken:
        assert taken.folder.startswith("/dev/shm/"), "the memory file has no huge pages"
        clone = guests.clone(taken, "clone")
    script = "cut -d' ' -f22 /proc/$PPID/stat; cut -d' ' -f1 /proc/uptime"
    began, up = clone.ssh.run(script).stdout.split()
    marks = clone.timeline.marks
    assert float(up) - int(began) / 100 > (clone.timeline.now() - marks["restored"]) / 1e9


def test_later_clones_have_fewer_page_faults(guests: GuestFactory) -> None:
    origin = guests("template")
    origin.ssh.disconnect()
    with origin.snapshot() as taken:
        clones = [guests.clone(taken, "clone") for _ in range(2)]
    faults = [clone.statistics()["pf_taken"] for clone in clones]
    assert clones[0].facts["prefault_pages"] == 0 < clones[1].facts["prefault_pages"]
    assert faults[1] < 0.8 * faults[0]


def test_ksm_merges_pages_that_clones_have_written(
    guests: GuestFactory, emulated_host: Host
) -> None:
    origin = guests("mergeable", mergeable=True)
    origin.ssh.disconnect()
    with origin.snapshot() as taken:
        clones = [guests.clone(taken, f"merged {number}") for number in range(2)]
    for clone in clones:
        assert clone.facts["mergeable"]
        clone.ssh.run("seq 1000000 1999999 >/dev/shm/numbers")  # 8 MB, no two pages are equal
    with ksm.at_work(emulated_host):
        expected = ksm.read(emulated_host, "pages_sharing") + 1800
        assert wait_until(lambda: ksm.read(emulated_host, "pages_sharing") > expected, 90.0, 1.0)
        clones[0].ssh.run("printf 2 | dd of=/dev/shm/numbers conv=notrunc")
        heads = [one.ssh.run("head -n 1 /dev/shm/numbers").stdout for one in clones]
        assert heads == ["2000000\n", "1000000\n"]
    assert ksm.read(emulated_host, "run") == 0


def test_snapshot_preparation_sends_a_frame(guests: GuestFactory) -> None:
    """The frame causes the first interrupt and its exits, so that no clone has them."""
    guest = guests("sender")
    guest.ssh.run(
        "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1; sleep 2"
    )  # the guest sends no frames by itself

    def sent() -> int:
        return int(guest.ssh.run(["cat", "/sys/class/net/eth0/statistics/tx_packets"]).stdout)

    before = sent()
    guest.snapshot().remove()
    assert sent() == before + 1


def test_large_snapshots_use_no_host_memory(emulated_host: Host) -> None:
    memory = emulated_host.facts.memory >> 20
    assert emulated_host.scratch(mapped=memory // 2).startswith("/var/tmp/")


def test_panic_of_a_clones_clone_leaves_the_clone_running(
    guests: GuestFactory, family: list[Guest], emulated_host: Host
) -> None:
    with family[2].snapshot() as taken:
        grandchild = guests.clone(taken, "grandchild")
    assert grandchild.ssh.run(["cat", "/tmp/who"]).stdout.startswith("origin")
    assert grandchild.facts["cloned_from"] == family[2].name
    with grandchild.expect_end("panic", timeout=10.0):
        grandchild.ssh.run("hv-end panic; sleep 20")
    grandchild.stop()
    assert grandchild.facts["pid"] not in kvm_pids(emulated_host)
    family[2].ssh.run(["true"])


def resources_of(host: Host, kvm: KvmHypervisor) -> dict[str, int]:
    """Counts of what the agent and the host hold, and free memory in MiB."""
    done = host.run(["python3", "-I", "-S", "-c", COUNT_RESOURCES, str(kvm.agent.pid)])
    resources: dict[str, int] = json.loads(done.stdout)
    return resources


def test_thirty_clones_leave_nothing(
    guests: GuestFactory, family: list[Guest], kvm: KvmHypervisor, emulated_host: Host
) -> None:
    with family[1].snapshot() as taken:
        guests.clone(taken, "warm").stop()
        before = resources_of(emulated_host, kvm)
        for number in range(30):
            clone = guests.clone(taken, f"cycle {number}")
            clone.ssh.run(["true"])
            clone.stop()
        free = before.pop("free")

        def is_released() -> bool:
            """The agent may still close what belonged to the last clone."""
            after = resources_of(emulated_host, kvm)
            # the kernel's slab caches grow a little; the memory of a guest is larger
            return after.pop("free") > free - 64 and after == before

        assert wait_until(is_released), (before, resources_of(emulated_host, kvm))


def test_clone_keeps_the_balloon_size(guests: GuestFactory) -> None:
    origin = guests("ballooned")
    origin.balloon(16)
    assert wait_until(lambda: origin.statistics()["balloon_actual"] == 16, 30.0)
    with origin.snapshot() as taken:
        clone = guests.clone(taken, "clone")
    assert clone.statistics()["balloon_actual"] == 16
    clone.balloon(0)
    assert wait_until(lambda: clone.statistics()["balloon_actual"] == 0, 30.0)


def test_snapshot_does_not_interrupt_disk_requests(guests: GuestFactory) -> None:
    """The disk's daemon would abort a request in flight when it is stopped."""
    origin = guests("busy")
    reader = origin.ssh.popen("while dd if=/dev/vda of=/dev/null bs=4k iflag=direct; do :; done")
    seen: list[int] = [0]

    def reads() -> bool:
        return origin.statistics()["block_requests_root"] > seen[-1]

    for _ in range(10):
        assert wait_until(reads, 10.0)
        origin.snapshot().remove()
        seen.append(origin.statistics()["block_requests_root"])
    assert wait_until(reads, 10.0)
    reader.kill()


def test_group_consists_of_clones_of_one_template(inner: Inner) -> None:
    result = inner(
        """
        def test_group(guest_group):
            first = guest_group(2)
            second = guest_group(1)
            assert len({guest.facts["cloned_from"] for guest in first + second}) == 1
            assert {guest.ssh.run(["nproc"]).stdout for guest in first + second} == {"1\\n"}
            for guest in first + second:
                assert guest.timeline.next_stage is None

        def test_template_is_reused(guest_group, guest_factory):
            count = guest_factory.count
            guest_group(1)
            assert guest_factory.count == count + 1
        """
    )
    result.assert_outcomes(passed=2)
