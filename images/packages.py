"""Debian packages for an image: this machine's apt resolves and downloads them.

Nothing is installed, and no root rights are needed. apt sees a machine without packages, but uses
this machine's sources, package lists and keys, and so its mirrors and proxies.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import unquote

from harness.errors import ImageError

from .run import run

KERNEL = "linux-image-cloud-amd64"
# e.g. 'http://.../dash_0.5.12-2_amd64.deb' dash_0.5.12-2_amd64.deb 97000 SHA256:...
_URI = re.compile(r"^'[^']+' (?P<file>\S+\.deb) (?P<size>\d+)")
# Packages from other sources of this machine must not get into images.
_PREFERENCES = """\
Package: *
Pin: release o=Debian
Pin-Priority: 1001

Package: *
Pin: release o=*
Pin-Priority: -1
"""


@dataclass(frozen=True)
class Deb:
    """One package in one version; `file` is its name in apt's cache."""

    name: str
    version: str
    file: str


class Apt:
    """apt-get with its own state in `folder`, which is created."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "status").write_text("")
        (folder / "preferences").write_text(_PREFERENCES)
        self._has_own_lists = False

    def resolve(self, names: Iterable[str]) -> list[Deb]:
        """The packages `names` and their dependencies without recommendations, sorted by name."""
        try:
            listing = self._resolve(names)
        except ImageError:
            self._update_lists()  # this machine's package lists are missing or outdated
            listing = self._resolve(names)
        debs = [parse_file_name(m["file"]) for line in listing if (m := _URI.match(line))]
        return sorted(debs, key=lambda deb: deb.name)

    def fetch(self, debs: Sequence[Deb], into: Path) -> list[Path]:
        """Download packages that `into` lacks; apt checks every file's digest."""
        into.mkdir(parents=True, exist_ok=True)
        versions = [f"{deb.name}={deb.version}" for deb in debs]
        try:
            self._apt("-q", "download", *versions, cwd=into)
        except ImageError:
            self._update_lists()  # the mirror has newer versions than this machine's lists
            self._apt("-q", "download", *versions, cwd=into)
        return [into / deb.file for deb in debs]

    def _resolve(self, names: Iterable[str]) -> list[str]:
        output = self._apt("-qq", "install", "--print-uris", *sorted(names))
        return output.decode().splitlines()

    def _update_lists(self) -> None:
        """Download package lists into `folder`, once."""
        if self._has_own_lists:
            return
        self._has_own_lists = True
        (self._folder / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        self._apt("-q", "update")

    def _apt(self, *arguments: str, cwd: Path | None = None) -> bytes:
        options = {
            "Dir::State::status": self._folder / "status",
            "Dir::Etc::preferences": self._folder / "preferences",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::Cache::archives": self._folder / "archives",
            "Dir::Cache::pkgcache": "",
            "Dir::Cache::srcpkgcache": "",
            "APT::Architecture": "amd64",
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
            "Acquire::Retries": "2",
            "Debug::NoLocking": "true",
        }
        if self._has_own_lists:
            options["Dir::State::lists"] = self._folder / "lists"
        argv = ["apt-get"]
        for name, value in options.items():
            argv += ["-o", f"{name}={value}"]
        # a list option: ignore this machine's other architectures
        argv += ["-o", "APT::Architectures=", "-o", "APT::Architectures::=amd64"]
        try:
            return run([*argv, *arguments], cwd=cwd, env={**os.environ, "LC_ALL": "C.UTF-8"})
        except ImageError as error:
            raise ImageError(
                f"apt cannot provide the packages: {error.cause}",
                hint="check that this machine's apt sources have Debian's main and are reachable:"
                " run apt-get update",
                stage="image",
            ) from None


def parse_file_name(file: str) -> Deb:
    """Name and version from apt's NAME_VERSION_ARCHITECTURE.deb, which has %3a for ':'."""
    name, version, _ = file.removesuffix(".deb").split("_")
    return Deb(name, unquote(version), file)


def exclude_packages(debs: Iterable[Deb], patterns: Sequence[str]) -> list[Deb]:
    """The packages whose names match none of the shell patterns."""
    return [d for d in debs if not any(fnmatchcase(d.name, pattern) for pattern in patterns)]


def find_kernel_package(debs: Iterable[Deb]) -> Deb:
    """The kernel among the dependencies of KERNEL, which is a meta-package."""
    for deb in debs:
        if re.fullmatch(r"linux-image-\d.*-cloud-amd64", deb.name):
            return deb
    raise ImageError(
        f"apt finds no kernel for {KERNEL}",
        hint="add Debian's main to this machine's apt sources",
        stage="image",
    )
