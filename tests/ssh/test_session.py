"""SSHSession against a real server on loopback."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.errors import CommandError, HostError, SSHError
from harness.ssh.channels import take_pid
from harness.ssh.credentials import load_client_key
from harness.ssh.errors import HostKeyError, SSHAuthError, SSHLate, SSHLost, SSHRefused
from harness.ssh.process import Stream
from harness.ssh.session import SSHSession
from tests.sshd import LoopbackServer, make_key
from tests.waiting import gone


def connect(
    server: LoopbackServer,
    *,
    client_key: Path | None = None,
    host_key: str = "",
    timeout: float = 10.0,
    open_stream: Callable[[float], Stream] | None = None,
) -> SSHSession:
    return SSHSession.connect(
        open_stream or server.open_stream,
        user=server.user,
        client_key=client_key or server.client_key,
        host_key=host_key or server.host_key,
        timeout=timeout,
        server_name="the test server",
        guest="g1",
    )


@pytest.fixture
def session(server: LoopbackServer) -> Iterator[SSHSession]:
    with connect(server) as opened:
        yield opened


class TestRun:
    def test_run_separates_both_outputs_and_the_status(self, session: SSHSession) -> None:
        done = session.run("echo out; echo err >&2; exit 3", check=False)
        assert (done.status, done.stdout, done.stderr) == (3, "out\n", "err\n")

    def test_run_quotes_a_list(self, session: SSHSession) -> None:
        words = ["printf", "%s|", "a b", "$HOME", "'", "*"]
        assert session.run(words).stdout == "a b|$HOME|'|*|"

    def test_run_raises_with_the_output_of_a_failed_command(self, session: SSHSession) -> None:
        with pytest.raises(CommandError, match="status 2: bad") as caught:
            session.run("echo so; echo bad >&2; exit 2")
        error = caught.value
        assert (error.status, error.stdout, error.stderr, error.guest) == (2, "so\n", "bad\n", "g1")

    def test_run_of_an_unknown_command_has_status_127(self, session: SSHSession) -> None:
        assert session.run(["no-such-program"], check=False).status == 127

    def test_run_replaces_invalid_utf8(self, session: SSHSession) -> None:
        assert session.run("printf 'a\\377b'").stdout == "a\ufffdb"

    def test_run_reads_megabytes_of_both_outputs(self, session: SSHSession) -> None:
        size = 8 << 20
        script = f"head -c {size} /dev/zero & head -c {size} /dev/zero >&2; wait"
        status, out, err = session.run_bytes(script)
        assert (status, len(out), len(err)) == (0, size, size)

    def test_run_reports_standard_error_as_it_arrives(self, session: SSHSession) -> None:
        seen: list[bytes] = []
        script = "echo one >&2; read -r line; echo two >&2"
        _, _, err = session.run_bytes(script, input=b"\n", on_stderr=seen.append)
        assert err == b"one\ntwo\n"
        assert seen[-1].endswith(err)
        assert all(seen[-1].startswith(part) for part in seen)

    def test_run_writes_and_reads_megabytes(self, session: SSHSession) -> None:
        data = os.urandom(6 << 20)
        assert session.run_bytes(["cat"], input=data) == (0, data, b"")

    def test_run_ignores_input_that_the_command_does_not_read(self, session: SSHSession) -> None:
        assert session.run_bytes(["true"], input=bytes(8 << 20))[0] == 0

    def test_threads_share_a_session(self, session: SSHSession) -> None:
        outputs: dict[int, str] = {}

        def work(number: int) -> None:
            outputs[number] = session.run(["echo", str(number)]).stdout

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert outputs == {number: f"{number}\n" for number in range(8)}

    def test_run_kills_a_late_command_and_shows_its_output(self, session: SSHSession) -> None:
        with pytest.raises(SSHLate, match="printed: ") as caught:
            session.run("echo $$; sleep 100", timeout=3.0)
        assert caught.value.stage == "run"
        assert caught.value.guest == "g1"
        assert gone(int(caught.value.cause.split()[-1]))
        assert session.run(["true"]).status == 0  # the session still works

    def test_run_raises_when_server_dies(self, server: LoopbackServer, session: SSHSession) -> None:
        timer = threading.Timer(0.5, server.kill_connections)
        timer.start()
        with pytest.raises(SSHLost, match=r"test server was lost.*begun"):
            session.run("echo begun; sleep 100", timeout=30)
        timer.join()
        assert not session.alive
        with pytest.raises(SSHLost, match="closed"):
            session.run(["true"])
        session.reconnect()
        assert session.alive
        assert session.run(["echo", "again"]).stdout == "again\n"


class TestLogin:
    def test_error_names_an_unknown_host_key(self, server: LoopbackServer, tmp_path: Path) -> None:
        other = make_key(tmp_path / "other")
        with pytest.raises(HostKeyError, match="another host key") as caught:
            connect(server, host_key=other)
        assert "SHA256:" in caught.value.cause

    def test_host_key_of_another_type_is_refused(self, server: LoopbackServer) -> None:
        key = "ecdsa-sha2-nistp256 " + server.host_key.split()[1]
        with pytest.raises(HostKeyError, match="another host key"):
            connect(server, host_key=key)

    def test_unknown_client_key_is_refused(self, server: LoopbackServer, tmp_path: Path) -> None:
        make_key(tmp_path / "stranger")
        with pytest.raises(SSHAuthError, match="does not accept the client key") as caught:
            connect(server, client_key=tmp_path / "stranger")
        assert "authorized_keys" in caught.value.hint

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
    def test_key_with_access_for_others_is_refused(self, server: LoopbackServer, mode: int) -> None:
        server.client_key.chmod(mode)
        with pytest.raises(SSHAuthError, match=f"mode {mode:04o}") as caught:
            connect(server)
        assert "chmod 600" in caught.value.hint

    def test_each_connect_checks_the_key_file(self, server: LoopbackServer) -> None:
        """An unchanged file is still parsed only once."""
        original = server.client_key.read_bytes()
        connect(server).close()
        assert load_client_key(server.client_key) is load_client_key(server.client_key)
        server.client_key.chmod(0o644)
        with pytest.raises(SSHAuthError, match="mode 0644"):
            connect(server)
        server.client_key.unlink()
        make_key(server.client_key)
        with pytest.raises(SSHAuthError, match="does not accept"):
            connect(server)
        server.client_key.write_bytes(original)
        connect(server).close()

    def test_load_client_key_notices_a_new_certificate(
        self, server: LoopbackServer, tmp_path: Path
    ) -> None:
        assert load_client_key(server.client_key).public_blob is None
        public = server.client_key.with_suffix(".pub")
        public.write_text((server.client_key.parent / "authorized").read_text())
        make_key(tmp_path / "authority")
        sign = ["ssh-keygen", "-q", "-s", str(tmp_path / "authority"), "-I", "me", str(public)]
        subprocess.run(sign, check=True)
        assert load_client_key(server.client_key).public_blob is not None

    def test_missing_key_is_an_error(self, server: LoopbackServer, tmp_path: Path) -> None:
        with pytest.raises(SSHAuthError, match="No such file"):
            connect(server, client_key=tmp_path / "none")

    def test_broken_key_is_an_error(self, server: LoopbackServer) -> None:
        server.client_key.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nx\n")
        with pytest.raises(SSHAuthError, match="not a private key"):
            connect(server)

    def test_closed_port_is_refused(self, server: LoopbackServer) -> None:
        server.close()
        with pytest.raises(SSHRefused, match="does not serve SSH: Connection refused"):
            connect(server)

    def test_end_of_file_before_the_banner_is_refused(self, server: LoopbackServer) -> None:
        our_end, peer_end = socket.socketpair()
        peer_end.close()
        with pytest.raises(SSHRefused, match="closed before the key exchange"):
            connect(server, open_stream=lambda _timeout: our_end)
        assert our_end.fileno() == -1  # closed

    def test_silent_server_times_out_and_leaves_no_thread(self, server: LoopbackServer) -> None:
        before = threading.active_count()
        our_end, peer_end = socket.socketpair()
        start = time.monotonic()
        with peer_end, pytest.raises(SSHLate, match="did not end in"):
            connect(server, open_stream=lambda _timeout: our_end, timeout=0.5)
        assert time.monotonic() - start < 5
        assert threading.active_count() == before

    def test_every_error_class_is_an_ssh_error(self) -> None:
        for kind in (SSHRefused, SSHLate, SSHLost, HostKeyError, SSHAuthError):
            assert issubclass(kind, SSHError)


class TestFiles:
    @pytest.mark.parametrize("size", [0, 1, 3 << 20])
    def test_put_and_get_round_trip(self, session: SSHSession, tmp_path: Path, size: int) -> None:
        data = os.urandom(size)
        target = tmp_path / "with space"
        session.put(data, str(target), mode=0o640)
        assert target.read_bytes() == data
        assert target.stat().st_mode & 0o777 == 0o640
        assert session.get(str(target)) == data
        assert list(tmp_path.glob("*.part")) == []

    def test_put_copies_a_file(self, session: SSHSession, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.write_bytes(os.urandom(1 << 20))
        session.put(source, str(tmp_path / "copy"))
        digests = {
            hashlib.sha256(path.read_bytes()).digest() for path in (source, tmp_path / "copy")
        }
        assert len(digests) == 1

    def test_put_into_a_missing_folder_fails(self, session: SSHSession, tmp_path: Path) -> None:
        with pytest.raises(CommandError, match=r"(?i)no such|nonexistent"):
            session.put(b"x", str(tmp_path / "none" / "x"))

    def test_get_of_a_missing_file_is_an_error(self, session: SSHSession, tmp_path: Path) -> None:
        with pytest.raises(CommandError, match="No such file"):
            session.get(str(tmp_path / "none"))


class TestProcess:
    def test_process_reads_and_writes_lines(self, session: SSHSession) -> None:
        process = session.popen(["cat"])
        process.write(b"one\ntwo\nthr")
        assert process.readline() == b"one\n"
        assert process.readline() == b"two\n"
        process.write(b"ee")
        process.close_stdin()
        assert process.readline() == b"three"
        assert process.readline() == b""
        assert process.wait(5) == 0

    def test_process_keeps_the_end_of_stderr_and_the_status(self, session: SSHSession) -> None:
        process = session.popen("head -c 9000 /dev/zero | tr '\\0' x >&2; echo end >&2; exit 7")
        assert process.wait(5) == 7
        tail = process.stderr_tail()
        assert len(tail) == 4096
        assert tail.endswith("xend\n")

    def test_kill_ends_child_processes_too(self, session: SSHSession) -> None:
        process = session.popen("sleep 100 & echo $!; wait")
        sleeper = int(process.readline())
        process.kill()
        process.kill()
        assert gone(sleeper)
        with pytest.raises(HostError, match="is gone"):
            process.write(b"x")

    def test_wait_times_out(self, session: SSHSession) -> None:
        process = session.popen(["sleep", "100"])
        with pytest.raises(TimeoutError):
            process.wait(0.1)
        process.kill()

    def test_lost_connection_ends_readline(
        self, server: LoopbackServer, session: SSHSession
    ) -> None:
        process = session.popen(["cat"])
        timer = threading.Timer(0.2, server.kill_connections)
        timer.start()
        assert process.readline() == b""
        assert process.wait(5) == -1
        timer.join()


@pytest.mark.parametrize(
    ("printed", "pid", "rest"),
    [(b"12\nerr\n", 12, b"err\n"), (b"12", 0, b"12"), (b"motd\n12\n", 0, b"motd\n12\n")],
)
def test_take_pid_removes_a_complete_first_line(printed: bytes, pid: int, rest: bytes) -> None:
    err = bytearray(printed)
    assert take_pid(err) == pid
    assert err == rest
