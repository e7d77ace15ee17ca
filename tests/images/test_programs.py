"""The C programs: compiled the same way every time, strict about their arguments."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from images.build import compile_c
from tests.waiting import wait_until

NAMES = ("hv-exits", "hv-ops", "hv-end", "hv-hostile", "hv-rr")
TOOLS = {name: (f"tools/{name}.c",) for name in NAMES}
INIT = ("init.c", "boot.c", "host.c", "net.c", "ssh_servers.c", "vmm_requests.c")


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tools")
    for name, sources in TOOLS.items():
        program = folder / name
        program.write_bytes(compile_c(("-static",), sources, folder / "scratch"))
        program.chmod(0o755)
    return folder


def run(tools: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(tools / argv[0]), *argv[1:]], capture_output=True, text=True, check=False, timeout=60
    )


def test_init_is_the_same_wherever_it_is_compiled(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    flags = ("-static", "-Wextra", "-Werror")
    first = compile_c(flags, INIT, tmp_path / "init")
    assert compile_c(flags, INIT, tmp_path / "elsewhere" / "other") == first
    assert first.startswith(b"\x7fELF")


def test_control_prints_one_json_object(tools: Path) -> None:
    done = run(tools, "hv-exits", "control", "--ops", "1000", "--batches", "4")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["case"], result["ops"], len(result["batches"])) == ("control", 1000, 4)
    assert result["tsc_khz"] > 1000
    for batch in result["batches"]:
        assert batch["cycles"] > 0
        assert batch["ns"] > 0


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense", "--ops", "1", "--batches", "1"],
        ["control"],
        ["control", "--ops", "0", "--batches", "1"],
        ["control", "--ops", "-5", "--batches", "1"],
        ["control", "--ops", "1x", "--batches", "1"],
        ["control", "--ops", "10"],
        ["control", "--ops", "10", "--batches", "1", "--port"],
        ["pio_user", "--ops", "10", "--batches", "1", "--port", "65536"],
    ],
)
def test_bad_usage_of_hv_exits(tools: Path, arguments: list[str]) -> None:
    done = run(tools, "hv-exits", *arguments)
    assert done.returncode == 2
    assert "usage: hv-exits" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "case", ["syscall", "context_switch", "wakeup", "page_fault", "pointer_chase"]
)
def test_hv_ops_times_each_batch(tools: Path, case: str) -> None:
    if case == "wakeup" and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two CPUs")
    done = run(tools, "hv-ops", case, "--ops", "200", "--batches", "3", "--mib", "2")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["case"], result["ops"], len(result["batches"])) == (case, 200, 3)
    assert all(batch["ns"] > 0 and batch["cycles"] > 0 for batch in result["batches"])


def test_hv_ops_leaves_no_process(tools: Path) -> None:
    program = str(tools / "hv-ops")

    def running() -> bool:
        processes = psutil.process_iter(["cmdline"])
        return any(program in (one.info["cmdline"] or ()) for one in processes)

    run(tools, "hv-ops", "context_switch", "--ops", "10", "--batches", "1")
    assert wait_until(lambda: not running())


def test_hv_ops_timer_reports_sleep_latency(tools: Path) -> None:
    done = run(tools, "hv-ops", "timer", "--ops", "50", "--batches", "2")
    for batch in json.loads(done.stdout)["batches"]:
        assert 0 < batch["p50"] <= batch["p99"] <= batch["max"] <= batch["ns"]
        assert batch["ns"] >= 25 * batch["p50"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense", "--ops", "1", "--batches", "1"],
        ["page_fault", "--ops", "0", "--batches", "1"],
        ["page_fault", "--ops", "1"],
        ["pointer_chase", "--ops", "1", "--batches", "1", "--mib", "-1"],
        ["timer", "--ops", "1", "--batches"],
    ],
)
def test_bad_usage_of_hv_ops(tools: Path, arguments: list[str]) -> None:
    done = run(tools, "hv-ops", *arguments)
    assert done.returncode == 2
    assert "usage: hv-ops" in done.stderr


def test_hv_rr_counts_round_trips(tools: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    server = subprocess.Popen([tools / "hv-rr", port], stdout=subprocess.PIPE)
    assert server.stdout is not None
    with server.stdout as printed:
        assert printed.readline() == b"listening\n"
        for _ in range(2):  # one client after the other
            done = run(tools, "hv-rr", "127.0.0.1", port, "0.1")
            words = done.stdout.split()
            assert words[::2] == ["round_trips", "seconds", "p50", "p99"], done
            count, seconds, p50, p99 = map(float, words[1::2])
            assert count > 0
            assert seconds >= 0.1
            assert 0 < p50 <= p99
        server.kill()
    server.wait()


@pytest.mark.parametrize("arguments", [[], ["1.2.3.4", "1"], ["no.address", "1", "1"]])
def test_bad_usage_of_hv_rr(tools: Path, arguments: list[str]) -> None:
    done = run(tools, "hv-rr", *arguments)
    assert done.returncode == 2
    assert "usage: hv-rr" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["explode"], ["panic", "now"]])
def test_bad_usage_of_hv_end_ends_nothing(tools: Path, arguments: list[str]) -> None:
    done = run(tools, "hv-end", *arguments)
    assert done.returncode == 2
    assert "usage: hv-end" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [[], ["explode"], ["loop"], ["loop", "/dev/null", "0", "1"], ["memory", "/dev/null"]],
)
def test_bad_usage_of_hv_hostile_harms_nothing(tools: Path, arguments: list[str]) -> None:
    done = run(tools, "hv-hostile", *arguments)
    assert done.returncode == 2
    assert "usage: hv-hostile" in done.stderr


@pytest.mark.parametrize("device", ["/absent", "/dev/null", "/sys/kernel"])
def test_hv_hostile_requires_a_virtio_device(tools: Path, device: str) -> None:
    done = run(tools, "hv-hostile", "well-formed", device)
    assert done.returncode == 1
    assert device in done.stderr or "/sys" in done.stderr


def preloaded(tmp_path: Path, code: str) -> str:
    """Run Python with the SSH server's preloaded library; returns its output."""
    library = tmp_path / "preload.so"
    flags = ("-shared", "-fPIC", "-nostdlib", "-fno-builtin")
    library.write_bytes(compile_c(flags, ("preload.c",), tmp_path / "scratch"))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"LD_PRELOAD": str(library), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr
    return done.stdout.strip()


def test_a_preloaded_open_hides_proc_alone(tmp_path: Path) -> None:
    code = (
        "import ctypes, os; libc = ctypes.CDLL(None, use_errno=True);"
        "read = lambda fd: fd if fd < 0 else os.read(fd, 3);"
        "print(*((read(libc.open(p, 0)), ctypes.get_errno()) for p in "
        "(b'/proc/timer_list', b'/proc/self/comm', b'/absent', b'/dev/zero')));"
        f"fd = libc.open(b'{tmp_path}/new', os.O_CREAT | os.O_WRONLY, 0o640);"
        "print(fd > 2, oct(os.fstat(fd).st_mode))"
    )
    lines = preloaded(tmp_path, code).splitlines()
    assert lines[0] == r"(-1, 2) (-1, 2) (-1, 2) (b'\x00\x00\x00', 2)"
    assert lines[1] == "True 0o100640"


def test_preloaded_names_leave_other_sockets_alone(tmp_path: Path) -> None:
    code = (
        "import socket; a = socket.create_server(('127.0.0.1', 0));"
        "b = socket.create_connection(a.getsockname()); c, _ = a.accept();"
        "assert c.getpeername() == b.getsockname(); assert b.getpeername() == a.getsockname();"
        "print(socket.socketpair()[0].getpeername() == '')"
    )
    assert preloaded(tmp_path, code) == "True"
