"""Root file systems: packages become a tar, the tar becomes ext2."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import pytest

from harness.errors import ImageError
from images.rootfs import RootTar, canonical_path, make_ext2


def deb(folder: Path, name: str, files: dict[str, str]) -> Path:
    root = folder / name
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN" / "control").write_text(
        f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: t <t@t>\nDescription: t\n"
    )
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    package = folder / f"{name}.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-b", str(root), str(package)],
        check=True,
        capture_output=True,
    )
    return package


@pytest.fixture
def debs(tmp_path: Path) -> list[Path]:
    one = {"bin/tool": "tool", "usr/share/doc/one/copyright": "c", "etc/passwd": "theirs"}
    two = {"lib64/ld.so": "loader", "usr/share/data": "d" * 9000}
    return [deb(tmp_path, "one", one), deb(tmp_path, "two", two)]


def make(debs: list[Path], folder: Path) -> tuple[Path, RootTar]:
    path = folder / "root.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        root = RootTar(tar, ["usr/share/doc/*"])
        root.add_file("/etc/passwd", b"ours", 0o600)
        root.add_packages(debs)
        root.add_directory("/proc")
    return path, root


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("./bin/sh", "usr/bin/sh"),
        ("./usr/bin/sh", "usr/bin/sh"),
        ("./lib64/ld.so", "usr/lib64/ld.so"),
        ("./bin/", "bin"),
        ("./", ""),
        ("./.hidden", ".hidden"),
        ("/library/x", "library/x"),
    ],
)
def test_canonical_path(path: str, expected: str) -> None:
    assert canonical_path(path) == expected


def test_tar_is_merged_filtered_and_has_recipe_files_first(
    debs: list[Path], tmp_path: Path
) -> None:
    path, _ = make(debs, tmp_path)
    with tarfile.open(path) as tar:
        members = {member.name: member for member in tar}
        passwd = tar.extractfile("etc/passwd")
        assert passwd is not None
        assert passwd.read() == b"ours"
    assert members["bin"].linkname == "usr/bin"
    assert members["etc/passwd"].mode == 0o600
    assert {"usr/bin/tool", "usr/lib64/ld.so", "proc"} <= set(members)
    assert not any("copyright" in name for name in members)


def test_parents_precede_children(debs: list[Path], tmp_path: Path) -> None:
    """genext2fs silently omits entries without a parent, such as /usr/lib64/ld.so."""
    path, _ = make(debs, tmp_path)
    seen = {""}
    with tarfile.open(path) as tar:
        for member in tar:
            assert member.name.rpartition("/")[0] in seen, member.name
            assert member.name not in seen
            seen.add(member.name)


def test_ext2_is_valid_complete_and_reproducible(debs: list[Path], tmp_path: Path) -> None:
    images = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        tar, root = make(debs, folder)
        make_ext2(tar, folder / "disk", blocks=root.blocks + 16, inodes=root.inodes + 8)
        images.append(folder / "disk")
    assert images[0].read_bytes() == images[1].read_bytes()
    # magic of ext2 at byte 56 of the super block
    assert images[0].read_bytes()[1024 + 56 : 1024 + 58] == b"\x53\xef"
    check = subprocess.run(
        ["/sbin/e2fsck", "-fn", str(images[0])], capture_output=True, check=False, text=True
    )
    assert check.returncode == 0, check.stdout
    shown = subprocess.run(
        ["/sbin/debugfs", "-R", "cat /usr/lib64/ld.so", str(images[0])],
        capture_output=True,
        check=True,
    )
    assert shown.stdout == b"loader"


def test_too_small_image_raises_image_error(debs: list[Path], tmp_path: Path) -> None:
    tar, _ = make(debs, tmp_path)
    with pytest.raises(ImageError, match="genext2fs ended"):
        make_ext2(tar, tmp_path / "disk", blocks=-60, inodes=1)


def test_broken_package_raises_image_error(tmp_path: Path) -> None:
    broken = tmp_path / "broken.deb"
    broken.write_bytes(b"no archive")
    with pytest.raises(ImageError, match="dpkg-deb ended"):
        make([broken], tmp_path)
