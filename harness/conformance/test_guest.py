"""One guest: its boot, console, SSH, facts, statistics, network, and its optional capabilities."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from harness.errors import HarnessError, ProvisionError
from harness.guest.factory import GuestFactory
from harness.guest.guest import Guest
from harness.hosts.base import Host
from harness.hypervisors.base import End, Events, GuestSpec, Hypervisor, Machine
from harness.hypervisors.capabilities import (
    SupportsBalloon,
    SupportsClone,
    SupportsExitLimit,
    SupportsHostNetwork,
    SupportsIntrospection,
    SupportsMonitor,
)

KERNEL_OPTION = "conformance=on"
pytestmark = pytest.mark.guest(vcpus=1, memory=192, cmdline=KERNEL_OPTION)
TIMEOUT = 20.0  # seconds
# a loop in the guest that takes CPU time
BUSY = "n=0; while [ $n -lt 20000 ]; do n=$((n + 1)); done"


RequireCapability = Callable[[object, type], None]


@pytest.fixture
def require_capability(hypervisor: Hypervisor) -> RequireCapability:
    """Skips the test where the hypervisor or its machine does not declare a capability."""

    def require(subject: object, capability: type) -> None:
        if not isinstance(subject, capability):
            pytest.skip(f"{hypervisor.name} does not declare {capability.__name__}")

    return require


# -- boot ----------------------------------------------------------------------------------------


def test_the_boot_reaches_its_stages_in_order(shared_guest: Guest) -> None:
    """Required: create, init, sshd, ready. The mark "kernel" is optional."""
    marks = shared_guest.timeline.marks
    assert {"create", "init", "sshd", "ready"} <= set(marks)
    assert list(marks.values()) == sorted(marks.values())


def test_the_guest_gets_the_complete_command_line(shared_guest: Guest) -> None:
    words = shared_guest.ssh.run(["cat", "/proc/cmdline"]).stdout.split()
    assert KERNEL_OPTION in words
    if shared_guest.address is not None:
        assert any(word.startswith(f"harness.ip={shared_guest.address}/") for word in words)


@pytest.mark.requires_vm
def test_the_guest_has_its_memory(shared_guest: Guest) -> None:
    line = shared_guest.ssh.run(["grep", "MemTotal", "/proc/meminfo"]).stdout
    assert 0.6 * 192 < int(line.split()[1]) / 1024 <= 192


# -- console and SSH -----------------------------------------------------------------------------


@pytest.mark.requires_vm
def test_console_lines_have_the_hosts_time(shared_guest: Guest) -> None:
    start = shared_guest.timeline.now()
    shared_guest.ssh.run("echo a line of the console >/dev/console")
    assert shared_guest.console.wait_for("a line of the console", TIMEOUT)
    stamp = shared_guest.console.time_of("a line of the console")
    assert start - 1e9 < stamp < shared_guest.timeline.now() + 1e9


def test_ssh_runs_commands_and_transfers_files(shared_guest: Guest) -> None:
    result = shared_guest.ssh.run("echo out; echo error >&2; exit 3", check=False)
    assert (result.stdout, result.stderr, result.status) == ("out\n", "error\n", 3)
    content = bytes(range(256)) * 1024
    shared_guest.ssh.put(content, "/tmp/file")  # noqa: S108
    assert shared_guest.ssh.get("/tmp/file") == content  # noqa: S108


def test_the_machine_accepts_further_connections(shared_guest: Guest) -> None:
    stream = shared_guest.machine.connect(22, TIMEOUT)
    try:
        stream.settimeout(TIMEOUT)
        assert stream.recv(4) == b"SSH-"
    finally:
        stream.close()
    with pytest.raises(OSError):  # noqa: PT011 - refused, reset or late: each is right
        shared_guest.machine.connect(9, 5.0)


# -- facts and statistics ------------------------------------------------------------------------


def test_the_facts_name_the_process(shared_guest: Guest, virt_host: Host) -> None:
    facts = shared_guest.facts
    assert facts["vmm"]
    assert (facts["vcpus"], facts["memory"]) == (1, 192)
    assert virt_host.run(["test", "-d", f"/proc/{facts['pid']}"], check=False).status == 0
    assert facts["ssh"] in ("vsock", "network")
    assert (facts["ssh"] == "vsock") == bool(facts["cid"])


def test_statistics_count_what_the_guest_costs(shared_guest: Guest) -> None:
    """Every counter is an integer. One that the hypervisor cannot know is absent, never 0."""
    before = shared_guest.statistics()
    assert all(type(value) is int and value >= 0 for value in before.values()), before
    shared_guest.ssh.run(BUSY)
    after = shared_guest.statistics()
    # the VMM's process has the guest's work, but the first process of a container has not
    cpu = "cgroup_cpu_usec" if "cgroup_cpu_usec" in after else "cpu_ns"
    assert cpu in after, f"no counter of CPU time in {after}"
    for name in (cpu, "exits"):
        if name in after:
            assert after[name] > before.get(name, 0), f"{name} does not count"


def test_capabilities_are_the_kernels(hypervisor: Hypervisor) -> None:
    try:
        capabilities = hypervisor.capabilities()
    except HarnessError as error:
        pytest.skip(f"the host's KVM cannot be asked: {error.cause}")
    assert all(
        name.startswith("KVM_CAP_") and type(value) is int for name, value in capabilities.items()
    )


# -- network -------------------------------------------------------------------------------------


@pytest.fixture
def address(shared_guest: Guest) -> str:
    if shared_guest.address is None:
        why = shared_guest.facts.get("no_network") or f"network={shared_guest.facts['network']}"
        pytest.skip(f"the guest has no address: {why}")
    return shared_guest.address


def test_the_guest_has_its_address(shared_guest: Guest, address: str) -> None:
    addresses = shared_guest.ssh.run(["ip", "-4", "-o", "addr"]).stdout
    assert f" {address}/" in addresses
    link = shared_guest.ssh.run(["cat", "/sys/class/net/eth0/address"]).stdout.strip()
    assert link == shared_guest.facts["mac"]


def test_the_host_reaches_the_guest_by_its_network(
    hypervisor: Hypervisor,
    address: str,
    virt_host: Host,
    require_capability: RequireCapability,
) -> None:
    require_capability(hypervisor, SupportsHostNetwork)
    assert isinstance(hypervisor, SupportsHostNetwork)
    code = f"import socket; print(socket.create_connection(({address!r}, 22), 10).recv(4))"
    argv = hypervisor.in_network(["python3", "-I", "-S", "-c", code])
    assert virt_host.run(argv).stdout == "b'SSH-'\n"


# -- a second guest ------------------------------------------------------------------------------


def test_a_second_guest_has_its_own_addresses_and_one_end(
    hypervisor: Hypervisor,
    shared_guest: Guest,
    guest_factory: GuestFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two guests run at once. The call of on_end is the last one of its machine, and the only
    one."""
    calls: list[str] = []
    create = hypervisor.create

    def create_recorded(spec: GuestSpec, events: Events) -> Machine:
        def on_console(time_ns: int, text: str) -> None:
            calls.append("console")
            events.on_console(time_ns, text)

        def on_mark(stage: str, time_ns: int) -> None:
            calls.append("mark")
            events.on_mark(stage, time_ns)

        def on_end(end: End) -> None:
            calls.append("end")
            events.on_end(end)

        return create(spec, Events(on_console, on_mark, on_end, events.on_callback))

    monkeypatch.setattr(hypervisor, "create", create_recorded)
    second = guest_factory("second")
    try:
        assert second.ssh.run(["true"]).status == 0
        assert shared_guest.ssh.run(["true"]).status == 0
        assert second.facts["pid"] != shared_guest.facts["pid"]
        if second.address is not None:
            assert second.address != shared_guest.address
            assert second.facts["mac"] != shared_guest.facts["mac"]
        if second.facts["cid"]:
            assert second.facts["cid"] != shared_guest.facts["cid"]
    finally:
        second.stop()
    second.machine.stop()  # idempotent, and without a second end
    time.sleep(0.5)
    assert calls.count("end") == 1
    assert calls[-1] == "end"
    assert shared_guest.ssh.run(["true"]).status == 0


@pytest.mark.requires_vm
def test_a_guest_with_two_vcpus(guest_factory: GuestFactory, virt_host: Host) -> None:
    if virt_host.facts.cpus < 2:
        pytest.skip(f"{virt_host.name} has one CPU")
    try:
        guest = guest_factory.launch("two-vcpus", vcpus=2)
    except ProvisionError as error:
        pytest.skip(f"vcpus=2 is refused: {error.cause}")
    try:
        guest.wait_ready()
        assert guest.facts["vcpus"] == 2
        assert guest.ssh.run(["nproc"]).stdout == "2\n"
    finally:
        guest.stop()


def test_a_guest_without_a_network(guest_factory: GuestFactory) -> None:
    try:
        guest = guest_factory.launch("isolated", network="none")
    except ProvisionError as error:
        pytest.skip(f"network=none is refused: {error.cause}")
    try:
        guest.wait_ready()
        assert guest.address is None
        assert "eth0" not in guest.ssh.run(["ls", "/sys/class/net"]).stdout.split()
    finally:
        guest.stop()


# -- optional capabilities -----------------------------------------------------------------------


def test_introspection(shared_guest: Guest, require_capability: RequireCapability) -> None:
    require_capability(shared_guest.machine, SupportsIntrospection)
    with shared_guest.vm.paused():
        assert shared_guest.vm.vcpus[0].regs.rip
        assert len(shared_guest.vm.memory[0x1000:0x1010]) == 16
    assert shared_guest.ssh.run(["true"]).status == 0


def test_the_balloon(shared_guest: Guest, require_capability: RequireCapability) -> None:
    require_capability(shared_guest.machine, SupportsBalloon)
    shared_guest.balloon(16)
    end = time.monotonic() + TIMEOUT
    while shared_guest.balloon()["balloon_actual"] < 16:
        assert time.monotonic() < end, "the guest does not fill the balloon"
        time.sleep(0.05)
    shared_guest.balloon(0)


def test_the_limit_of_exits_can_change(
    shared_guest: Guest, require_capability: RequireCapability
) -> None:
    require_capability(shared_guest.machine, SupportsExitLimit)
    shared_guest.limit_exits(1_000_000)
    shared_guest.limit_exits(0)
    assert shared_guest.ssh.run(["true"]).status == 0


def test_the_monitor(shared_guest: Guest, require_capability: RequireCapability) -> None:
    require_capability(shared_guest.machine, SupportsMonitor)
    assert isinstance(shared_guest.machine, SupportsMonitor)
    assert shared_guest.machine.monitor.execute("query-status")["status"] == "running"


def test_a_clone_continues_with_its_own_identity(
    hypervisor: Hypervisor,
    shared_guest: Guest,
    guest_factory: GuestFactory,
    require_capability: RequireCapability,
) -> None:
    require_capability(hypervisor, SupportsClone)
    shared_guest.ssh.run("echo kept >/dev/shm/state")
    with shared_guest.snapshot() as snapshot:
        clone = guest_factory.clone(snapshot, "conformance")
        try:
            assert clone.ssh.run("cat /dev/shm/state").stdout == "kept\n"
            assert clone.facts["cid"] != shared_guest.facts["cid"]
            names = [
                one.ssh.run("cat /proc/sys/kernel/hostname").stdout for one in (clone, shared_guest)
            ]
            assert names[0] != names[1]
        finally:
            clone.stop()
