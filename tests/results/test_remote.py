"""Remote stores of each kind, with local servers."""

from __future__ import annotations

import importlib.util
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from harness.errors import ResultError
from harness.results import load, runs
from harness.results.acknowledgements import acknowledge, load_acknowledgements
from harness.results.remote import RemoteStore, open_store, push
from harness.urls import without_passwords
from tests.results.synthetic import write_run
from tests.sshd import LoopbackServer, make_key

Move = Callable[[str], None]


@pytest.fixture(autouse=True)
def _machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty home directory and state directory."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "cache-0"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


@pytest.fixture
def other_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Move:
    """`other_machine(name)`: continue as another machine, with its own mirror."""

    def move(name: str) -> None:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / f"cache-{name}"))

    return move


def _known_to_home(server: LoopbackServer, home: Path) -> None:
    folder = home / ".ssh"
    folder.mkdir(parents=True)
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{server.port} {server.host_key}\n")
    (folder / "id_ed25519").write_bytes(server.client_key.read_bytes())
    (folder / "id_ed25519").chmod(0o600)


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[LoopbackServer]:
    folder = tmp_path / "sshd"
    folder.mkdir()
    server = LoopbackServer(folder)
    server.configure("Subsystem sftp internal-sftp")
    yield server
    server.close()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket of a local S3 server."""
    for module in ("s3fs", "moto", "flask"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed (pip install -e .[dev])")
    from moto.server import ThreadedMotoServer

    for word, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "x"), ("REGION", "eu-a-1")):
        monkeypatch.setenv(f"AWS_{word}", value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    name = f"nights-{secrets.token_hex(4)}"  # servers of one process share their buckets
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir(name)
    yield name
    server.stop()


@pytest.fixture(params=["file", "memory", "sftp", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty store."""
    if request.param == "sftp":
        server = request.getfixturevalue("sshd")
        _known_to_home(server, tmp_path / "home")
        yield f"sftp://{server.user}@127.0.0.1:{server.port}{tmp_path}/far/store"
    elif request.param == "s3":
        yield f"s3://{request.getfixturevalue('bucket')}/nights"
    elif request.param == "memory":
        yield f"memory://{tmp_path.name}/store/"
        fsspec.filesystem("memory").rm(f"/{tmp_path.name}", recursive=True)
    else:
        yield f"file://{tmp_path}/far/store"


def test_runs_are_shared_between_machines(url: str, other_machine: Move) -> None:
    here = open_store(url)
    assert runs(here) == []
    assert push(url) == []
    first = write_run(here, parts="boot")
    assert push(url) == [f"{first.parent.name}/{first.name}"]
    assert push(url) == []

    other_machine("b")
    other_mirror = open_store(url)
    assert other_mirror != here
    (copy,) = runs(other_mirror)
    assert copy.read_bytes() == first.read_bytes()
    second = write_run(other_mirror, parts="boot")
    acknowledgement = acknowledge(other_mirror, "a1", second.stem, "a new compiler")
    (other_mirror / "run.html").write_text("pages stay")
    assert len(push(url)) == 2

    other_machine("0")
    assert len(RemoteStore(url).pull()) == 2
    assert [path.stem for path in runs(here)] == sorted([first.stem, second.stem])
    assert load(here, second.stem)[0]["run"] == second.stem
    assert load_acknowledgements(here).reason("a1", second.stem) == "a new compiler"
    assert (here / "acknowledged" / acknowledgement.name).exists()
    assert not (here / "run.html").exists()
    assert not list(here.rglob("*.tmp"))


def test_failed_upload_is_retried_later(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = open_store(url)
    path = write_run(here, parts="boot")
    real = RemoteStore(url)._file_system_class()

    def broken(*_: Any, **__: Any) -> None:
        raise OSError("the line was cut")

    with monkeypatch.context() as patch:
        patch.setattr(real, "put_file" if "s3" in url else "mv", broken)
        if "s3" in url:
            patch.setattr(real, "_put_file", broken)
        with pytest.raises(ResultError, match=r"cannot be written.*the line was cut") as caught:
            push(url)
    assert str(here) in caught.value.hint
    assert path.exists()
    assert not [one for one in _files(url) if one.endswith((".tmp", ".parquet"))]
    later = write_run(here, parts="boot")
    assert {Path(name).stem for name in push(url)} == {path.stem, later.stem}


def _files(url: str) -> list[str]:
    with RemoteStore(url)._connect() as (files, root):
        try:
            return [str(name) for name in files.find(root)]
        except FileNotFoundError:
            return []


def test_partial_and_other_files_are_not_synchronized(tmp_path: Path, other_machine: Move) -> None:
    url = f"file://{tmp_path}/store"
    path = write_run(open_store(url), parts="boot")
    push(url)
    month = tmp_path / "store" / path.parent.name
    (month / f".{path.name}.0123abcd.tmp").write_bytes(b"PAR1")
    (month / "notes.txt").write_text("by hand")
    (tmp_path / "store" / "README").write_text("by hand")
    other_machine("b")
    assert [one.name for one in open_store(url).rglob("*") if one.is_file()] == [path.name]


def test_directory_needs_no_mirror(tmp_path: Path) -> None:
    assert open_store(str(tmp_path)) == tmp_path
    assert open_store("~/x") == tmp_path / "home" / "x"
    assert push(str(tmp_path)) == []


def test_mirror_is_one_for_each_url() -> None:
    mirrors = {RemoteStore(f"memory://{name}").mirror for name in ("a/b", "a-b", "a", "a/b/c")}
    assert len(mirrors) == 4
    assert RemoteStore("memory://a/").mirror == RemoteStore("memory://a").mirror


@pytest.mark.parametrize(
    ("word", "cause", "hint"),
    [
        ("nowhere://x", "Protocol not known", "a URL of file, sftp or s3"),
        ("sftp://me:secret@host/x", "password", "key"),
    ],
)
def test_invalid_urls_are_refused(word: str, cause: str, hint: str) -> None:
    with pytest.raises(ResultError, match=cause) as caught:
        RemoteStore(word)
    assert hint in caught.value.hint
    assert "secret" not in str(caught.value)


def test_s3_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(ResultError, match="s3fs") as caught:
        RemoteStore("s3://bucket/x")
    assert "pip install '.[s3]'" in caught.value.hint


# -- SFTP checks host keys -----------------------------------------------------------------------


def _sftp(server: LoopbackServer, path: Path) -> str:
    return f"sftp://{server.user}@127.0.0.1:{server.port}{path}"


def test_unknown_host_is_refused(tmp_path: Path, sshd: LoopbackServer) -> None:
    _known_to_home(sshd, tmp_path / "home")
    known = tmp_path / "home" / ".ssh" / "known_hosts"
    known.write_text("")
    with pytest.raises(ResultError, match=r"host key .* is not known") as caught:
        open_store(_sftp(sshd, tmp_path / "store"))
    assert "ssh-keyscan" in caught.value.hint
    assert known.read_text() == ""
    assert not (tmp_path / "store").exists()


def test_host_with_another_key_is_refused(tmp_path: Path, sshd: LoopbackServer) -> None:
    _known_to_home(sshd, tmp_path / "home")
    known = tmp_path / "home" / ".ssh" / "known_hosts"
    known.write_text(f"[127.0.0.1]:{sshd.port} {make_key(tmp_path / 'other')}\n")
    with pytest.raises(ResultError, match="cannot be read") as caught:
        open_store(_sftp(sshd, tmp_path / "store"))
    assert "intercepted" in caught.value.hint


def test_refused_client_key_is_reported(tmp_path: Path, sshd: LoopbackServer) -> None:
    _known_to_home(sshd, tmp_path / "home")
    make_key(tmp_path / "home" / ".ssh" / "id_ed25519")
    with pytest.raises(ResultError, match="cannot be read") as caught:
        open_store(_sftp(sshd, tmp_path / "store"))
    assert "authorized_keys" in caught.value.hint


def test_unreachable_host_keeps_runs_in_mirror(tmp_path: Path, sshd: LoopbackServer) -> None:
    _known_to_home(sshd, tmp_path / "home")
    url = _sftp(sshd, tmp_path / "store")
    path = write_run(open_store(url), parts="boot")
    sshd.close()
    with pytest.raises(ResultError, match="cannot be written") as caught:
        push(url)
    assert str(RemoteStore(url).mirror) in caught.value.hint
    assert path.exists()


# -- a session -----------------------------------------------------------------------------------

MEASURED = """
def test_it(record_sample):
    record_sample("x", 1.0, "s", "lower")
"""


@pytest.mark.slow
@pytest.mark.parametrize("writable", [True, False])
def test_session_uploads_its_run(tmp_path: Path, writable: bool) -> None:
    project, store = tmp_path / "project", tmp_path / "far" / "store"
    project.mkdir()
    processes = Path(__file__).parents[1] / "plugin" / "processes.py"
    (project / "conftest.py").write_text("")
    (project / "processes.py").write_text(processes.read_text())
    info = project / "example-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: example\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[harness.hypervisors]\nprocesses = processes:ShellHypervisor\n"
    )
    (project / "test_it.py").write_text(MEASURED)
    if not writable:
        store.parent.write_text("no folder")
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--hypervisor=processes"]
    done = subprocess.run(
        [*argv, f"--virt-results=file://{store}", "--virt-no-report"],
        cwd=project,
        env={
            **os.environ,
            "PYTHONPATH": f"{project}:{Path(__file__).parents[2]}",
            "XDG_RUNTIME_DIR": str(tmp_path / "run"),
            "CI": "true",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    mirror = RemoteStore(f"file://{store}").mirror
    (run,) = runs(mirror)
    assert len(load(run)[1]) >= 1
    if writable:
        assert done.returncode == 0, done.stdout + done.stderr
        assert [path.name for path in runs(store)] == [run.name]
    else:
        assert done.returncode == 1, done.stdout + done.stderr
        assert "cannot be written" in done.stdout
        assert str(mirror) in done.stdout


def test_unlistable_folder_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an empty folder it would get all files again."""

    def refuse(_self: object, _path: str, **_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.ls", refuse)
    with pytest.raises(ResultError, match=r"cannot be read: .*Permission denied"):
        open_store("file:///tmp")


@pytest.mark.parametrize(
    "url",
    ["s3://AKIA:ab/cd@bucket/x", "simplecache::sftp://me:pw@host/x", "sftp://me:secret@host/x"],
)
def test_errors_never_contain_passwords(url: str) -> None:
    with pytest.raises(ResultError, match="contains a password") as caught:
        RemoteStore(url)
    for word in ("ab/cd", "pw@", "secret"):
        assert word not in str(caught.value)
    assert without_passwords(f"--virt-results={url}").count("***@") == 1
