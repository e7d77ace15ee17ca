"""The store: built once, verified at each use, rebuilt when broken, nothing half-made."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from harness.errors import ImageError
from images import __main__ as cli
from images import store
from images.build import Contents, Progress
from images.recipe import Recipe, key, load


class FakeBuilder:
    """Writes small files in place of a build; `fail` is raised half-way."""

    builds = 0
    fail: BaseException | None = None

    def __init__(self, recipe: Recipe, folder: Path, cache: Path, progress: Progress) -> None:
        self._kind, self._folder, self._cache = recipe.kind, folder, cache

    def build(self) -> Contents:
        FakeBuilder.builds += 1
        (self._cache / "debs").mkdir(exist_ok=True)
        for name in store.FILES[self._kind]:
            (self._folder / name).write_bytes(f"{self._kind} {name}".encode())
        if FakeBuilder.fail:
            raise FakeBuilder.fail
        return Contents("6.1.0-test", {"dash": "1"}, {"disk": 0.1})


@pytest.fixture(autouse=True)
def builder(monkeypatch: pytest.MonkeyPatch) -> type[FakeBuilder]:
    FakeBuilder.builds, FakeBuilder.fail = 0, None
    monkeypatch.setattr(store, "Builder", FakeBuilder)
    monkeypatch.setattr(store, "_require_space", lambda *_: None)
    return FakeBuilder


def build(cache: Path) -> tuple[store.GuestImage, list[str]]:
    lines: list[str] = []
    return store.guest_image(lines.append, cache), lines


def leftovers(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir() if path.name.startswith(".")]


def test_built_once_then_taken_from_the_cache(tmp_path: Path) -> None:
    first, _ = build(tmp_path)
    second, lines = build(tmp_path)
    assert first == second
    assert FakeBuilder.builds == 1
    assert lines == []
    assert first.kernel.read_bytes() == b"guest vmlinux"
    assert (first.release, first.packages) == ("6.1.0-test", {"dash": "1"})
    assert leftovers(tmp_path) == []
    store.check(first)
    store.verify(first)


def test_host_and_guest_share_keys_but_not_folders(tmp_path: Path) -> None:
    guest, host = store.guest_image(print, tmp_path), store.host_image(print, tmp_path)
    assert guest.folder != host.folder
    assert host.kernel == host.bzimage
    assert (guest.client_key, guest.host_key) == (host.client_key, host.host_key)


def test_digest_does_not_depend_on_the_keys_but_the_initramfs_has_them(tmp_path: Path) -> None:
    one, two = store.guest_image(print, tmp_path / "1"), store.guest_image(print, tmp_path / "2")
    assert one.digest == two.digest
    assert one.host_key != two.host_key
    assert one.initramfs.read_bytes() != two.initramfs.read_bytes()
    assert one.initramfs.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", ["truncate", "delete", "manifest", "flip"])
def test_broken_image_is_rebuilt_and_says_so(tmp_path: Path, damage: str) -> None:
    image, _ = build(tmp_path)
    if damage == "truncate":
        os.truncate(image.disk, 3)
    elif damage == "delete":
        image.kernel.unlink()
    elif damage == "manifest":
        (image.folder / "manifest.json").write_text("{")
    else:
        image.disk.write_bytes(b"guest disc")
    again, lines = build(tmp_path)
    assert FakeBuilder.builds == 2
    assert any("building it again" in line for line in lines)
    assert again.disk.read_bytes() == b"guest disk"
    assert leftovers(tmp_path) == []


def test_touched_but_whole_is_kept(tmp_path: Path) -> None:
    image, _ = build(tmp_path)
    os.utime(image.disk)
    build(tmp_path)
    assert FakeBuilder.builds == 1


def test_full_verification_finds_what_sizes_and_times_hide(tmp_path: Path) -> None:
    image, _ = build(tmp_path)
    before = image.disk.stat()
    image.disk.write_bytes(b"guest disc")
    os.utime(image.disk, ns=(before.st_atime_ns, before.st_mtime_ns))
    store.check(image)
    with pytest.raises(ImageError, match="does not have its checksum"):
        store.verify(image)


def test_image_deleted_in_use(tmp_path: Path) -> None:
    image, _ = build(tmp_path)
    shutil.rmtree(image.folder)
    with pytest.raises(ImageError, match="in use was damaged") as caught:
        store.check(image)
    assert "rebuilt" in caught.value.hint


def test_new_keys_mean_a_new_image(tmp_path: Path) -> None:
    image, _ = build(tmp_path)
    shutil.rmtree(tmp_path / "keys")
    with pytest.raises(ImageError, match="keys"):
        store.check(image)
    again, _ = build(tmp_path)
    assert FakeBuilder.builds == 2
    assert again.host_key != image.host_key


def test_loose_client_key_is_tightened(tmp_path: Path) -> None:
    image, _ = build(tmp_path)
    image.client_key.chmod(0o644)
    build(tmp_path)
    assert image.client_key.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), RuntimeError("bug"), ImageError("no")])
def test_nothing_half_made_stays(
    tmp_path: Path, builder: type[FakeBuilder], failure: BaseException
) -> None:
    builder.fail = failure
    with pytest.raises(type(failure)):
        build(tmp_path)
    assert leftovers(tmp_path) == []
    assert list(tmp_path.glob("guest-*")) == []
    builder.fail = None
    build(tmp_path)


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        ImageError("genext2fs ended with status 1: write: No space left on device"),
        ImageError("apt: E: You don't have enough free space in /var/"),
    ],
)
def test_disk_full_names_file_system_and_mend(
    tmp_path: Path, builder: type[FakeBuilder], failure: Exception
) -> None:
    builder.fail = failure
    with pytest.raises(
        ImageError, match=r"file system /.*MiB free, about \d+ MiB needed"
    ) as caught:
        build(tmp_path)
    assert "XDG_CACHE_HOME" in caught.value.hint
    assert leftovers(tmp_path) == []
    assert not (tmp_path / "debs").exists()


def test_too_little_space_is_refused_before_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(store, "Builder", FakeBuilder)
    usage = shutil.disk_usage(tmp_path)._replace(free=5 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ImageError, match="5 MiB free, about 600 MiB needed"):
        build(tmp_path)
    assert FakeBuilder.builds == 0


def test_waits_for_another_builder_and_says_who(tmp_path: Path) -> None:
    (tmp_path / "guest.holder").write_text("process 4711 on here\n")
    other = FileLock(tmp_path / "guest.lock")
    waiting = threading.Event()
    lines: list[str] = []

    def progress(line: str) -> None:
        lines.append(line)
        waiting.set()

    with other:
        thread = threading.Thread(target=store.guest_image, args=(progress, tmp_path))
        thread.start()
        assert waiting.wait(20)
        assert FakeBuilder.builds == 0
    thread.join(20)
    assert "waiting for process 4711 on here" in lines[0]
    assert FakeBuilder.builds == 1


def test_what_a_killed_builder_left_is_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".building-guest-dead").mkdir()
    build(tmp_path)
    assert leftovers(tmp_path) == []


def test_clean_keeps_the_present_image(tmp_path: Path) -> None:
    image, _ = build(tmp_path)
    old = tmp_path / "guest-000000000000-111111111111"
    shutil.copytree(image.folder, old)
    removed = store.clean(tmp_path)
    assert set(removed) == {old, tmp_path / "debs"}
    assert not old.exists()
    store.verify(image)
    assert store.clean(tmp_path, everything=True) == [image.folder]


def test_cache_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert store.default_cache() == Path("/somewhere/pytest-hypervisor/images")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/x")
    assert store.default_cache() == Path("/home/x/.cache/pytest-hypervisor/images")


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--cache", str(tmp_path), "build"]) == 0
    assert cli.main(["--cache", str(tmp_path), "list"]) == 0
    listing = capsys.readouterr().out
    assert listing.count("* ") == 2
    assert cli.main(["--cache", str(tmp_path), "verify"]) == 0
    next(tmp_path.glob("host-*/disk")).write_bytes(b"host disc")
    assert cli.main(["--cache", str(tmp_path), "verify"]) == 1
    assert "checksum" in capsys.readouterr().err
    next(tmp_path.glob("guest-*/manifest.json")).write_text("{")
    assert cli.main(["--cache", str(tmp_path), "list"]) == 0
    assert "broken" in capsys.readouterr().out


def test_recipes_load_and_have_keys_of_their_own() -> None:
    guest, host = load("guest"), load("host")
    assert "dropbear-bin" in guest.packages
    assert {"openssh-server", "fio"} <= set(host.packages)
    assert {file.path for file in host.files} >= {"/etc/passwd", "/etc/ssh/sshd_config"}
    assert key("guest") != key("host")
    assert key("guest") == key("guest")
