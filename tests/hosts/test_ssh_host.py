"""SSH hosts: URLs, known keys, and a real server on the loopback address."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import CommandError, HostError, SSHError
from harness.hosts.ssh import SSHHost, parse_url
from harness.ssh.credentials import client_keys, known_host_key
from harness.ssh.vsock_proxy import VsockProxy
from tests.sshd import LoopbackServer, make_key


@pytest.fixture(autouse=True)
def no_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


@pytest.fixture
def known(server: LoopbackServer, tmp_path: Path) -> Path:
    path = tmp_path / "known_hosts"
    path.write_text(f"[127.0.0.1]:{server.port} {server.host_key}\n")
    return path


def open_host(server: LoopbackServer, known: Path) -> SSHHost:
    url = f"ssh://{server.user}@127.0.0.1:{server.port}"
    return SSHHost(url, known_hosts=[known], keys=[server.client_key], timeout=10)


@pytest.fixture
def host(server: LoopbackServer, known: Path) -> Iterator[SSHHost]:
    opened = open_host(server, known)
    yield opened
    opened.close()


def test_parse_url_returns_user_name_and_port() -> None:
    assert parse_url("ssh://me@box:2222") == ("me", "box", 2222)
    assert parse_url("ssh://me@box/") == ("me", "box", 22)
    assert parse_url("ssh://box")[1:] == ("box", 22)


@pytest.mark.parametrize(
    "url", ["ssh://", "ssh://a@b/c", "ssh://a:secret@b", "ssh://a@b:x", "http://b", "b"]
)
def test_parse_url_refuses_a_bad_url(url: str) -> None:
    with pytest.raises(HostError, match="is not an SSH host"):
        parse_url(url)


def test_known_host_key_prefers_ed25519(tmp_path: Path) -> None:
    first, second = make_key(tmp_path / "a"), make_key(tmp_path / "b")
    file = tmp_path / "known"
    file.write_text(f"box,10.0.0.1 {first}\n[box]:2222 {second}\n")
    assert known_host_key("box", 22, [file]) == first
    assert known_host_key("10.0.0.1", 22, [file]) == first
    assert known_host_key("box", 2222, [tmp_path / "none", file]) == second


def test_hint_for_an_unknown_host_key_names_ssh_keyscan(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"host key of \[box\]:2222 is not known") as caught:
        known_host_key("box", 2222, [tmp_path / "none"])
    assert "ssh-keyscan -p 2222 box" in caught.value.hint
    assert "fingerprint" in caught.value.hint


def test_missing_client_key_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no SSH client key") as caught:
        client_keys([tmp_path / "none"])
    assert "ssh-keygen" in caught.value.hint


def test_error_names_a_client_key_with_access_for_others(tmp_path: Path) -> None:
    make_key(tmp_path / "key")
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(HostError, match="mode 0644"):
        client_keys([tmp_path / "key"])


def test_another_host_key_is_an_error(server: LoopbackServer, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{server.port} {make_key(tmp_path / 'other')}\n")
    with pytest.raises(HostError, match="another host key"):
        open_host(server, known)


def test_closed_port_is_an_error(server: LoopbackServer, known: Path) -> None:
    server.close()
    with pytest.raises(HostError, match="Connection refused"):
        open_host(server, known)


def test_run_and_facts_of_an_ssh_host(host: SSHHost) -> None:
    assert host.name.startswith("ssh://")
    assert host.run(["echo", "a b"]).stdout == "a b\n"
    assert host.facts.cpus >= 1
    with pytest.raises(CommandError):
        host.run(["false"])
    with pytest.raises(HostError, match="did not end"):
        host.run(["sleep", "100"], timeout=0.3)


def test_place_transfers_the_same_content_once(host: SSHHost, tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"same")
    second.write_bytes(b"same")
    placed = Path(host.place(first))
    assert placed.read_bytes() == b"same"
    written = placed.stat().st_mtime_ns
    assert host.place(second) == str(placed)
    assert placed.stat().st_mtime_ns == written
    first.write_bytes(b"changed")
    assert Path(host.place(first)).read_bytes() == b"changed"
    with pytest.raises(HostError, match="cannot be read"):
        host.place(tmp_path / "none")


def test_place_makes_an_executable_file(host: SSHHost, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho run\n")
    assert host.run([host.place(program, executable=True)]).stdout == "run\n"


def test_close_removes_scratch_and_ends_processes(host: SSHHost) -> None:
    folder = Path(host.scratch())
    assert folder.is_dir()
    process = host.spawn(["cat"])
    process.write(b"x\n")
    assert process.readline() == b"x\n"
    host.close()
    host.close()
    assert not folder.exists()
    assert process.readline() == b""
    with pytest.raises(HostError, match="closed"):
        host.run(["true"])


def test_lost_session_is_reconnected(server: LoopbackServer, host: SSHHost) -> None:
    host.run(["true"])
    server.kill_connections()
    for _ in range(100):  # until the transport notices its end
        if not host.alive:
            break
        time.sleep(0.02)
    assert host.run(["echo", "again"]).stdout == "again\n"


def test_connect_vsock_without_a_guest_fails(host: SSHHost) -> None:
    with pytest.raises(OSError, match="vsock 2147483648:22"):
        host.connect_vsock(2**31, 22, 0.2)


def vsock_proxy(host: SSHHost) -> VsockProxy:
    proxy = host._start_vsock_proxy()
    assert proxy is not None
    return proxy


def test_one_proxy_serves_all_connections_and_ends_with_the_session(host: SSHHost) -> None:
    proxy = vsock_proxy(host)
    for _ in range(2):
        with pytest.raises(OSError, match="vsock 2147483648:22"):
            proxy.connect(host._session(), 2**31, 22, 0.2)
    assert vsock_proxy(host) is proxy
    host.close()
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", proxy._port), 1.0).close()
        except OSError:
            return
        time.sleep(0.05)
    pytest.fail("the proxy still listens")


@pytest.mark.parametrize("line", [b"", b"\n", b"wrong 2 22 1.0\n", b"x" * 1000])
def test_proxy_refuses_a_client_without_the_token(host: SSHHost, line: bytes) -> None:
    proxy = vsock_proxy(host)
    with socket.create_connection(("127.0.0.1", proxy._port), 5.0) as stranger:
        with contextlib.suppress(OSError):  # the proxy may have closed the connection
            stranger.sendall(line)
            stranger.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(100) == b""
    with pytest.raises(OSError, match="vsock"):
        proxy.connect(host._session(), 2**31, 22, 0.2)


def test_without_forwarding_each_connection_has_a_relay(
    server: LoopbackServer, known: Path
) -> None:
    server.configure("AllowTcpForwarding no")
    host = open_host(server, known)
    with pytest.raises(SSHError, match="does not forward"):
        vsock_proxy(host).connect(host._session(), 2**31, 22, 0.2)
    for _ in range(2):
        with pytest.raises(OSError, match="vsock 2147483648:22"):
            host.connect_vsock(2**31, 22, 0.2)
    assert host._vsock_proxy is None
    host.close()
