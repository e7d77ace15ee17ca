"""The sandbox of a guest's process: the kernel's view of it, and attempts to break its rules."""

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
steps = sandbox.enter()
def attempt(act):
    try:
        act()
    except OSError as error:
        print(errno.errorcode[error.errno])
    else:
        print("done")
"""


def confined(source: str) -> tuple[int, list[str]]:
    """Run `source` in a process that has entered the sandbox; returns status and words printed."""
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


def test_all_threads_are_confined(run: Runner) -> None:
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
    # root can still read the cost of the process
    assert psutil.Process(facts["pid"]).memory_info().rss > 0
    assert guest.machine.statistics()["cpu_ns"] > 0


def test_sandbox_is_optional(run: Runner) -> None:
    guest = run(HELLO + POWER_OFF + FOR_EVER, sandbox=False)
    assert guest.machine.facts["sandbox"] == []
    assert guest.end().reason == "power-off"


def test_external_vmm_gains_no_privileges(external_vmms: Runner) -> None:
    guest = external_vmms.start("exec", "peer", argv=["sleep", "100"])
    assert guest.machine.facts["sandbox"] == ["no new privileges"]
    assert {one["NoNewPrivs"] for one in status(guest.machine.facts["pid"])} == {"1"}


@pytest.fixture
def seccomp() -> None:
    if "seccomp" not in confined("print(*steps, sep='\\n')")[1]:
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
        "libc.syscall(0x40000000 | 39)",  # getpid of the x32 ABI
        "libc.syscall(425, 1, 0)",  # io_uring_setup
        "libc.syscall(272, 0x10000000)",  # unshare
    ],
)
def test_forbidden_call_ends_the_process(source: str) -> None:
    assert confined(source) == (-signal.SIGSYS, [])


@pytest.mark.usefixtures("seccomp")
@pytest.mark.parametrize(
    "source",
    [
        "attempt(lambda: open('/etc/passwd'))",
        "attempt(lambda: os.listdir('/'))",
        "attempt(lambda: mmap.mmap(-1, 4096, prot=7))",
        "attempt(lambda: os.open('/dev/kvm', os.O_RDWR))",
        "attempt(lambda: os.readlink('/proc/self/exe'))",
        "attempt(lambda: os.kill(os.getppid(), 0))",
    ],
)
def test_failing_call_has_an_error(source: str) -> None:
    assert confined(source) == (0, ["ENOSYS"])


def test_threads_signals_memory_and_files_work() -> None:
    source = """
thread = threading.Thread(target=lambda: print(len(os.urandom(8)), flush=True), name="t")
thread.start(); thread.join()
signal.signal(signal.SIGUSR1, lambda *_: print("signal", flush=True))
signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
len(mmap.mmap(-1, 1 << 22)); bytearray(1 << 22)
attempt(lambda: os.preadv(os.memfd_create("x"), [bytearray(8)], 0))
"""
    assert confined(source) == (0, ["8", "signal", "done"])


def test_only_vsock_sockets_are_allowed() -> None:
    source = """
attempt(lambda: socket.socket(socket.AF_VSOCK))
attempt(lambda: socket.socket(socket.AF_INET))
attempt(lambda: socket.socket(socket.AF_UNIX))
"""
    assert confined(source) == (0, ["done", "ENOSYS", "ENOSYS"])


def test_end_by_a_forbidden_call_names_seccomp(run: Runner) -> None:
    guest = run(HELLO + FOR_EVER)
    guest.wait_line("hi")
    os.kill(guest.machine.facts["pid"], signal.SIGSYS)  # as the kernel does after a forbidden call
    end = guest.end()
    assert end.reason == "killed"
    assert "SIGSYS" in end.detail
    assert "seccomp" in end.detail


DROP = """
import ctypes, os, struct
from harness.agent import sandbox
header, held = struct.pack("<Ii", 0x2008_0522, 0), ctypes.create_string_buffer(24)
libc = ctypes.CDLL(None, use_errno=True)
assert libc.syscall(125, header, held) == 0
words = struct.unpack("<6I", held.raw)
inherited = struct.pack("<6I", *words[:2], words[1], *words[3:5], words[4])
assert libc.syscall(126, header, inherited) == 0
sandbox.drop_capabilities((16, 17, 25))
os.execvp("grep", ["grep", "^Cap", "/proc/self/status"])
"""


@pytest.mark.skipif(not ROOT, reason="needs root's capabilities")
def test_dropped_capabilities_are_not_inherited() -> None:
    def capabilities(*argv: str) -> dict[str, int]:
        output = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout
        pairs = (line.split(":") for line in output.splitlines())
        return {name: int(value, 16) for name, value in pairs}

    before = capabilities("grep", "^Cap", "/proc/self/status")
    after = capabilities(sys.executable, "-c", DROP)
    mask = ~(1 << 16 | 1 << 17 | 1 << 25)
    assert after["CapInh"] == 0
    for which in ("CapPrm", "CapEff", "CapBnd"):
        assert after[which] == before[which] & mask
    assert before["CapPrm"] & ~mask
