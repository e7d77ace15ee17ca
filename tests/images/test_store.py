"""The image store: builds, cache hits, damage, full disks, concurrent builds."""

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
from images.image import FILES, GuestImage, check_in_use, open_guest_image, verify_folder
from images.recipe import Recipe, load_recipe, recipe_digest, tool_sources


class FakeBuilder:
    """Writes small files in place of a build; `failure` is raised before its end."""

    builds = 0
    failure: BaseException | None = None

    def __init__(self, recipe: Recipe, folder: Path, cache: Path, progress: Progress) -> None:
        self._kind, self._folder, self._cache = recipe.kind, folder, cache

    def build(self) -> Contents:
        FakeBuilder.builds += 1
        (self._cache / "debs").mkdir(exist_ok=True)
        for name in FILES[self._kind]:
            (self._folder / name).write_bytes(f"{self._kind} {name}".encode())
        if FakeBuilder.failure:
            raise FakeBuilder.failure
        return Contents("6.1.0-test", {"dash": "1"}, {"disk": 0.1})


@pytest.fixture(autouse=True)
def builder(monkeypatch: pytest.MonkeyPatch) -> type[FakeBuilder]:
    FakeBuilder.builds, FakeBuilder.failure = 0, None
    monkeypatch.setattr(store, "Builder", FakeBuilder)
    monkeypatch.setattr(store, "_require_space", lambda *_: None)
    return FakeBuilder


def build(cache: Path) -> tuple[GuestImage, list[str]]:
    lines: list[str] = []
    return store.guest_image(lines.append, cache), lines


def remains(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir() if path.name.startswith(".")]


def test_image_is_built_once_and_cached(tmp_path: Path) -> None:
    first, _ = build(tmp_path)
    second, lines = build(tmp_path)
    assert first == second
    assert FakeBuilder.builds == 1
    assert lines == []
    assert first.kernel.read_bytes() == b"guest vmlinux"
    assert (first.release, first.packages) == ("6.1.0-test", {"dash": "1"})
    assert remains(tmp_path) == []
    check_in_use(first)
    verify_folder(first.folder)


def test_host_and_guest_share_keys_but_not_folders(tmp_path: Path) -> None:
    guest, host = store.guest_image(print, tmp_path), store.host_image(print, tmp_path)
    assert guest.folder != host.folder
    assert host.kernel == host.bzimage
    assert (guest.client_key, guest.host_key) == (host.client_key, host.host_key)


def test_digest_excludes_the_keys_in_the_initramfs(tmp_path: Path) -> None:
    one, two = store.guest_image(print, tmp_path / "1"), store.guest_image(print, tmp_path / "2")
    assert one.digest == two.digest
    assert one.host_key != two.host_key
    assert one.initramfs.read_bytes() != two.initramfs.read_bytes()
    assert one.initramfs.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", ["truncate", "delete", "manifest", "flip"])
def test_broken_image_is_rebuilt_with_a_message(tmp_path: Path, damage: str) -> None:
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
    assert remains(tmp_path) == []


def test_image_with_new_timestamps_is_not_rebuilt(tmp_path: Path) -> None:
    image, _ = build(tmp_path)
    os.utime(image.disk)
    build(tmp_path)
    assert FakeBuilder.builds == 1


def test_full_verification_finds_damage_of_equal_size_and_time(tmp_path: Path) -> None:
    image, _ = build(tmp_path)
    before = image.disk.stat()
    image.disk.write_bytes(b"guest disc")
    os.utime(image.disk, ns=(before.st_atime_ns, before.st_mtime_ns))
    check_in_use(image)
    with pytest.raises(ImageError, match="does not have its checksum"):
        verify_folder(image.folder)


def test_deleted_image_in_use_is_reported(tmp_path: Path) -> None:
    image, _ = build(tmp_path)
    shutil.rmtree(image.folder)
    with pytest.raises(ImageError, match="in use was damaged") as caught:
        check_in_use(image)
    assert "rebuilt" in caught.value.hint


def test_new_keys_cause_a_new_image(tmp_path: Path) -> None:
    image, _ = build(tmp_path)
    shutil.rmtree(tmp_path / "keys")
    with pytest.raises(ImageError, match="keys"):
        check_in_use(image)
    again, _ = build(tmp_path)
    assert FakeBuilder.builds == 2
    assert again.host_key != image.host_key


def test_client_key_is_made_private(tmp_path: Path) -> None:
    image, _ = build(tmp_path)
    image.client_key.chmod(0o644)
    build(tmp_path)
    assert image.client_key.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), RuntimeError("bug"), ImageError("no")])
def test_failed_build_leaves_nothing(
    tmp_path: Path, builder: type[FakeBuilder], failure: BaseException
) -> None:
    builder.failure = failure
    with pytest.raises(type(failure)):
        build(tmp_path)
    assert remains(tmp_path) == []
    assert list(tmp_path.glob("guest-*")) == []
    builder.failure = None
    build(tmp_path)


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        ImageError("genext2fs ended with status 1: write: No space left on device"),
        ImageError("apt: E: You don't have enough free space in /var/"),
    ],
)
def test_full_disk_error_names_the_file_system(
    tmp_path: Path, builder: type[FakeBuilder], failure: Exception
) -> None:
    builder.failure = failure
    with pytest.raises(
        ImageError, match=r"file system /.*MiB free, about \d+ MiB needed"
    ) as caught:
        build(tmp_path)
    assert "XDG_CACHE_HOME" in caught.value.hint
    assert remains(tmp_path) == []
    assert not (tmp_path / "debs").exists()


def test_too_little_space_is_reported_before_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(store, "Builder", FakeBuilder)
    usage = shutil.disk_usage(tmp_path)._replace(free=5 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ImageError, match="5 MiB free, about 600 MiB needed"):
        build(tmp_path)
    assert FakeBuilder.builds == 0


def test_second_builder_waits_and_names_the_first(tmp_path: Path) -> None:
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


def test_next_build_removes_remains_of_a_killed_one(tmp_path: Path) -> None:
    (tmp_path / ".building-guest-dead").mkdir()
    build(tmp_path)
    assert remains(tmp_path) == []


def test_clean_keeps_the_current_image(tmp_path: Path) -> None:
    image, _ = build(tmp_path)
    old = tmp_path / "guest-000000000000-111111111111"
    shutil.copytree(image.folder, old)
    removed = store.clean(tmp_path)
    assert set(removed) == {old, tmp_path / "debs"}
    assert not old.exists()
    verify_folder(image.folder)
    assert store.clean(tmp_path, everything=True) == [image.folder]


def test_default_cache_follows_xdg_cache_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert store.default_cache() == Path("/somewhere/pytest-hypervisor/images")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/x")
    assert store.default_cache() == Path("/home/x/.cache/pytest-hypervisor/images")


def test_command_line_builds_lists_and_verifies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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


def test_recipes_load_and_have_different_digests() -> None:
    guest, host = load_recipe("guest"), load_recipe("host")
    assert "dropbear-bin" in guest.packages
    assert {"openssh-server", "fio"} <= set(host.packages)
    assert {file.path for file in host.files} >= {"/etc/passwd", "/etc/ssh/sshd_config"}
    assert recipe_digest("guest") != recipe_digest("host")
    assert recipe_digest("guest") == recipe_digest("guest")


def test_workload_recipe_adds_to_the_guest_recipe() -> None:
    guest, workload = load_recipe("guest"), load_recipe("workload")
    assert set(guest.packages) < set(workload.packages)
    assert {"nginx-light", "redis-server", "postgresql-15"} <= set(workload.packages)
    assert set(guest.modules) < set(workload.modules)
    assert (guest.database, workload.database) == (False, True)
    assert recipe_digest("workload") != recipe_digest("guest")
    tools = tool_sources("workload")
    assert set(tool_sources("guest")) < set(tools)
    assert {path.name for path in tools["hv-load"]} >= {"main.c", "confine.c"}


def test_open_guest_image_reads_a_folder(tmp_path: Path) -> None:
    image, _ = build(tmp_path)
    image.client_key.chmod(0o644)
    assert open_guest_image(image.folder) == image
    check_in_use(image)
    assert image.client_key.stat().st_mode & 0o777 == 0o644  # another store is not changed


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("manifest", "manifest.json cannot be read"),
        ("kind", "it is a host image"),
        ("keys", "changed after the image was built"),
        ("disk", "does not have its checksum"),
    ],
)
def test_open_guest_image_names_the_problem(tmp_path: Path, damage: str, problem: str) -> None:
    image, _ = build(tmp_path)
    folder = image.folder
    if damage == "manifest":
        (folder / "manifest.json").write_text("[]")
    elif damage == "kind":
        folder = store.host_image(print, tmp_path).folder
    elif damage == "keys":
        (tmp_path / "keys" / "host.pub").write_text("another")
    else:
        image.disk.write_bytes(b"guest disc")
    with pytest.raises(ImageError, match=problem) as caught:
        open_guest_image(folder)
    assert caught.value.hint
