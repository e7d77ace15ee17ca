"""This machine as a host."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import CommandError, HostError
from harness.hosts.local import LocalHost
from tests.waiting import gone


@pytest.fixture
def host() -> Iterator[LocalHost]:
    local = LocalHost()
    yield local
    local.close()


def test_run_passes_input_and_decodes_output(host: LocalHost) -> None:
    result = host.run(["sh", "-c", "cat; echo err >&2"], input=b"in\xff")
    assert (result.status, result.stdout, result.stderr) == (0, "in\ufffd", "err\n")


def test_run_raises_for_a_failed_command(host: LocalHost) -> None:
    with pytest.raises(CommandError, match="status 4: reason"):
        host.run(["sh", "-c", "echo reason >&2; exit 4"])
    assert host.run(["false"], check=False).status == 1


def test_run_of_a_missing_program_fails(host: LocalHost) -> None:
    with pytest.raises(HostError, match="no-such-program cannot be started") as caught:
        host.run(["no-such-program"])
    assert "install" in caught.value.hint


def test_run_kills_a_late_command_and_its_children(host: LocalHost) -> None:
    with pytest.raises(HostError, match="did not end") as caught:
        host.run(["sh", "-c", "sleep 100 & echo $!; wait"], timeout=0.3)
    assert gone(int(caught.value.cause.split()[-1]))


def test_run_kills_a_child_that_holds_the_pipe(host: LocalHost) -> None:
    with pytest.raises(HostError, match="did not end") as caught:
        host.run(["sh", "-c", "sleep 100 & echo $!"], timeout=0.3)
    assert gone(int(caught.value.cause.split()[-1]))


def test_process_reads_and_writes_lines(host: LocalHost) -> None:
    process = host.spawn(["sh", "-c", "cat; echo bye >&2; exit 5"])
    process.write(b"one\ntwo")
    assert process.readline() == b"one\n"
    process.close_stdin()
    assert process.readline() == b"two"
    assert process.readline() == b""
    assert process.wait(5) == 5
    assert process.stderr_tail() == "bye\n"
    with pytest.raises(HostError, match="bye"):
        process.write(b"x")


def test_stderr_tail_has_4_kib(host: LocalHost) -> None:
    process = host.spawn(["sh", "-c", "head -c 300000 /dev/zero >&2; echo end >&2"])
    assert process.wait(10) == 0
    assert len(process.stderr_tail()) == 4096
    assert process.stderr_tail().endswith("end\n")


def test_kill_ends_a_blocked_reader(host: LocalHost) -> None:
    process = host.spawn(["sleep", "100"])
    lines: list[bytes] = []
    reader = threading.Thread(target=lambda: lines.append(process.readline()))
    reader.start()
    with pytest.raises(TimeoutError):
        process.wait(0.05)
    process.kill()
    process.kill()
    reader.join(5)
    assert lines == [b""]
    assert process.wait(1) == -9


def test_place_returns_the_file_itself(host: LocalHost, tmp_path: Path) -> None:
    (tmp_path / "disk").touch()
    assert host.place(tmp_path / "disk") == str(tmp_path / "disk")
    with pytest.raises(HostError, match="is not a file"):
        host.place(tmp_path / "none")


def test_place_makes_an_executable_file(host: LocalHost, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho run\n")
    assert host.place(program) == host.place(program, regular=True) == str(program)
    placed = host.place(program, executable=True)
    assert host.run([placed]).stdout == "run\n"
    assert host.place(program, executable=True) == placed
    program.chmod(0o755)
    assert host.place(program, executable=True) == str(program)


def test_an_incomplete_executable_copy_is_an_error_and_removed(
    host: LocalHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(source: object, file: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfileobj", fail)
        with pytest.raises(HostError, match="No space left on device") as caught:
            host.place(program, executable=True)
    assert caught.value.hint
    assert list(Path(host.scratch()).iterdir()) == []
    assert os.access(host.place(program, executable=True), os.X_OK)


def test_scratch_supports_direct_io_and_close_removes_it(host: LocalHost) -> None:
    folder = Path(host.scratch())
    assert host.scratch() == str(folder)
    fd = os.open(folder / "file", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    os.close(fd)
    process = host.spawn(["sleep", "100"])
    host.close()
    host.close()
    assert not folder.exists()
    assert process.wait(1) == -9


def test_connect_vsock_without_a_guest_fails(host: LocalHost) -> None:
    with pytest.raises(OSError, match=r"timed out|No such device|reset|unreachable"):
        host.connect_vsock(2**31, 22, 0.2)
