"""The C programs: compiled the same way every time, strict about their arguments."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from images.build import compile_c

NAMES = ("hv-exits", "hv-end", "hv-hostile", "hv-rr")
TOOLS = {name: (f"tools/{name}.c",) for name in NAMES}
INIT = ("init.c", "boot.c", "net.c", "serve.c", "adopt.c")


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
            assert words[::2] == ["trips", "seconds", "p50", "p99"], done
            trips, seconds, middle, last = map(float, words[1::2])
            assert trips > 0
            assert seconds >= 0.1
            assert 0 < middle <= last
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
def test_hv_hostile_wants_a_device_to_spare(tools: Path, device: str) -> None:
    done = run(tools, "hv-hostile", "honest", device)
    assert done.returncode == 1
    assert device in done.stderr or "/sys" in done.stderr


def test_preloaded_names_leave_other_sockets_alone(tmp_path: Path) -> None:
    library = tmp_path / "vsockname.so"
    flags = ("-shared", "-fPIC", "-nostdlib", "-fno-builtin")
    library.write_bytes(compile_c(flags, ("vsockname.c",), tmp_path / "scratch"))
    code = (
        "import socket; a = socket.create_server(('127.0.0.1', 0));"
        "b = socket.create_connection(a.getsockname()); c, _ = a.accept();"
        "assert c.getpeername() == b.getsockname(); assert b.getpeername() == a.getsockname();"
        "print(socket.socketpair()[0].getpeername() == '')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"LD_PRELOAD": str(library), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "True", done.stderr
