"""Debian packages for an image: resolved and fetched by the machine's apt, never installed.

apt sees an empty machine (no installed packages) but this machine's sources, package lists and
keys, so that mirrors and proxies configured here are used. No rights are needed.
"""

from __future__ import annotations

import hashlib
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
# Only Debian's own packages: other sources on this machine must not get into images.
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
    """One package in one version; `file` as apt names it in its cache."""

    name: str
    version: str
    file: str


class Apt:
    """apt-get with a state of its own in `folder` (created)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "status").write_text("")
        (folder / "preferences").write_text(_PREFERENCES)
        self._own_lists = False

    def resolve(self, names: Iterable[str]) -> list[Deb]:
        """The packages that `names` need, recommendations left out, sorted by name."""
        try:
            listing = self._resolve(names)
        except ImageError:
            self._refresh()  # no package lists on this machine, or outdated ones
            listing = self._resolve(names)
        debs = [parse_file_name(m["file"]) for line in listing if (m := _URI.match(line))]
        return sorted(debs, key=lambda deb: deb.name)

    def fetch(self, debs: Sequence[Deb], into: Path) -> list[Path]:
        """Download what `into` does not have yet; apt checks every file's digest."""
        into.mkdir(parents=True, exist_ok=True)
        wanted = [f"{deb.name}={deb.version}" for deb in debs]
        try:
            self._apt("-q", "download", *wanted, cwd=into)
        except ImageError:
            self._refresh()  # the mirror has newer versions than the lists here
            self._apt("-q", "download", *wanted, cwd=into)
        return [into / deb.file for deb in debs]

    def _resolve(self, names: Iterable[str]) -> list[str]:
        output = self._apt("-qq", "install", "--print-uris", *sorted(names))
        return output.decode().splitlines()

    def _refresh(self) -> None:
        """Fetch package lists of our own, once."""
        if self._own_lists:
            return
        self._own_lists = True
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
        if self._own_lists:
            options["Dir::State::lists"] = self._folder / "lists"
        argv = ["apt-get"]
        for name, value in options.items():
            argv += ["-o", f"{name}={value}"]
        # a list option: other architectures of this machine are not asked for
        argv += ["-o", "APT::Architectures=", "-o", "APT::Architectures::=amd64"]
        try:
            return run([*argv, *arguments], cwd=cwd, env={**os.environ, "LC_ALL": "C.UTF-8"})
        except ImageError as error:
            raise ImageError(
                f"apt could not give the packages: {error.cause}",
                hint="check that this machine's apt sources have Debian's main and are reachable:"
                " apt-get update",
                stage="image",
            ) from None


def parse_file_name(file: str) -> Deb:
    """Name and version from apt's NAME_VERSION_ARCHITECTURE.deb, ':' written as %3a."""
    name, version, _ = file.removesuffix(".deb").split("_")
    return Deb(name, unquote(version), file)


def without(debs: Iterable[Deb], patterns: Sequence[str]) -> list[Deb]:
    """Those whose names match none of the shell patterns."""
    return [d for d in debs if not any(fnmatchcase(d.name, pattern) for pattern in patterns)]


def kernel_package(debs: Iterable[Deb]) -> Deb:
    """The real kernel among the dependencies of Debian's newest-cloud-kernel package."""
    for deb in debs:
        if re.fullmatch(r"linux-image-\d.*-cloud-amd64", deb.name):
            return deb
    raise ImageError(
        f"apt knows no kernel for {KERNEL}",
        hint="add Debian's main to this machine's apt sources",
        stage="image",
    )


def digest(debs: Iterable[Deb]) -> str:
    """Digest of names and versions."""
    lines = sorted(f"{deb.name}={deb.version}\n" for deb in debs)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
