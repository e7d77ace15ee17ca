"""What a guest's process can do no more, asked of the kernel and tried."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.vmm.guests import Runner
from tests.vmm.payload import FOR_EVER, HELLO, POWER_OFF

ROOT = os.geteuid() == 0
CONFINED = """
import ctypes, errno, mmap, os, signal, socket, sys, threading
from harness.agent import sandbox
libc = ctypes.CDLL(None, use_errno=True)
taken = sandbox.enter()
def refused(act):
    try:
        act()
    except OSError as error:
        print(errno.errorcode[error.errno])
    else:
        print("done")
"""


def confined(source: str) -> tuple[int, list[str]]:
    """A process that enters the sandbox and goes on with `source`: its status and its lines."""
    done = subprocess.run(
        [sys.executable, "-c", CONFINED + source + "\nsys.stdout.flush()\nos._exit(0)"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.split()


def status(pid: int) -> list[dict[str, str]]:
    """/proc/PID/status of every thread."""
    return [
        dict(line.split(":\t", 1) for line in path.read_text().splitlines() if ":\t" in line)
        for path in Path(f"/proc/{pid}/task").glob("*/status")
    ]


def test_the_kernel_says_so_of_every_thread(run: Runner) -> None:
    guest = run(HELLO + FOR_EVER, vcpus=2)
    guest.wait_line("hi")
    facts = guest.machine.facts
    threads = status(facts["pid"])
    assert {"vcpu0", "vcpu1"} < {one["Name"] for one in threads}
    for one in threads:
        if "seccomp" in facts["sandbox"]:
            assert one["Seccomp"] == "2"
        assert one["NoNewPrivs"] == "1"
        assert one["CapEff"] == one["CapPrm"] == one["CapInh"] == "0" * 16
        if "user nobody" in facts["sandbox"]:
            assert set(one["Uid"].split()) == set(one["Gid"].split()) == {"65534"}
            assert one["CapBnd"] == "0" * 16
            assert one["Groups"].split() == []
    assert {"no core dump", "no capabilities", "no new privileges"} <= set(facts["sandbox"])
    assert ("user nobody" in facts["sandbox"]) == ROOT
    # by who may: what the process costs is still to be seen
    assert psutil.Process(facts["pid"]).memory_info().rss > 0
    assert guest.machine.statistics()["cpu_ns"] > 0


def test_it_can_be_left_out(run: Runner) -> None:
    guest = run(HELLO + POWER_OFF + FOR_EVER, sandbox=False)
    assert guest.machine.facts["sandbox"] == []
    assert guest.end().reason == "power-off"


def test_a_peer_gains_no_rights(peers: Runner) -> None:
    guest = peers.start("exec", "peer", argv=["sleep", "100"])
    assert guest.machine.facts["sandbox"] == ["no new privileges"]
    assert {one["NoNewPrivs"] for one in status(guest.machine.facts["pid"])} == {"1"}


@pytest.fixture
def seccomp() -> None:
    if "seccomp" not in confined("print(*taken, sep='\\n')")[1]:
        pytest.skip("this kernel has no seccomp filters")


@pytest.mark.usefixtures("seccomp")
@pytest.mark.parametrize(
    "source",
    [
        "os.fork()",
        "os.execv('/bin/true', ['true'])",
        "libc.syscall(234, os.getppid(), os.getppid(), 0)",  # tgkill
        "libc.syscall(101, 16, os.getppid(), 0, 0)",  # ptrace
        "libc.syscall(310, os.getppid(), 0, 0, 0, 0, 0)",  # process_vm_readv
        "libc.syscall(0x40000000 | 39)",  # getpid as x32 has it
        "libc.syscall(425, 1, 0)",  # io_uring_setup
        "libc.syscall(272, 0x10000000)",  # unshare
    ],
)
def test_what_a_vmm_never_asks_for_ends_it(source: str) -> None:
    assert confined(source) == (-signal.SIGSYS, [])


@pytest.mark.usefixtures("seccomp")
@pytest.mark.parametrize(
    "source",
    [
        "refused(lambda: open('/etc/passwd'))",
        "refused(lambda: os.listdir('/'))",
        "refused(lambda: mmap.mmap(-1, 4096, prot=7))",
        "refused(lambda: os.open('/dev/kvm', os.O_RDWR))",
        "refused(lambda: os.readlink('/proc/self/exe'))",
        "refused(lambda: os.kill(os.getppid(), 0))",
    ],
)
def test_what_it_may_try_in_passing_fails(source: str) -> None:
    assert confined(source) == (0, ["ENOSYS"])


def test_it_works_on() -> None:
    source = """
made = threading.Thread(target=lambda: print(len(os.urandom(8)), flush=True), name="t")
made.start(); made.join()
signal.signal(signal.SIGUSR1, lambda *_: print("signal", flush=True))
signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
len(mmap.mmap(-1, 1 << 22)); bytearray(1 << 22)
refused(lambda: os.preadv(os.memfd_create("x"), [bytearray(8)], 0))
"""
    assert confined(source) == (0, ["8", "signal", "done"])


def test_sockets_are_those_to_guests() -> None:
    source = """
refused(lambda: socket.socket(socket.AF_VSOCK))
refused(lambda: socket.socket(socket.AF_INET))
refused(lambda: socket.socket(socket.AF_UNIX))
"""
    assert confined(source) == (0, ["done", "ENOSYS", "ENOSYS"])


def test_a_system_call_that_is_not_allowed_is_named(run: Runner) -> None:
    guest = run(HELLO + FOR_EVER)
    guest.wait_line("hi")
    os.kill(guest.machine.facts["pid"], signal.SIGSYS)  # what the kernel does then
    end = guest.end()
    assert end.reason == "killed"
    assert "SIGSYS" in end.detail
    assert "seccomp" in end.detail


WITHHELD = """
import ctypes, os, struct
from harness.agent import sandbox
header, held = struct.pack("<Ii", 0x2008_0522, 0), ctypes.create_string_buffer(24)
libc = ctypes.CDLL(None, use_errno=True)
assert libc.syscall(125, header, held) == 0
words = struct.unpack("<6I", held.raw)
inherited = struct.pack("<6I", *words[:2], words[1], *words[3:5], words[4])
assert libc.syscall(126, header, inherited) == 0
sandbox.withhold((16, 17, 25))
os.execvp("grep", ["grep", "^Cap", "/proc/self/status"])
"""


@pytest.mark.skipif(not ROOT, reason="needs root's capabilities")
def test_what_is_withheld_is_not_inherited_either() -> None:
    def capabilities(*argv: str) -> dict[str, int]:
        said = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout
        pairs = (line.split(":") for line in said.splitlines())
        return {name: int(value, 16) for name, value in pairs}

    before = capabilities("grep", "^Cap", "/proc/self/status")
    after = capabilities(sys.executable, "-c", WITHHELD)
    kept = ~(1 << 16 | 1 << 17 | 1 << 25)
    assert after["CapInh"] == 0
    for which in ("CapPrm", "CapEff", "CapBnd"):
        assert after[which] == before[which] & kept
    assert before["CapPrm"] & ~kept
