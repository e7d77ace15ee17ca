"""Stores elsewhere: `--virt-results=URL`, for every URL that fsspec understands.

A session works on a mirror of the store, a local directory of the user's; spools and pages stay
there. What lasts (run files, acknowledgements) is immutable, so that keeping mirror and store alike
is to copy what one of them lacks. What is to be removed must be removed in both.
"""

# ruff: noqa: PLC0415 - fsspec and paramiko: only for who names a URL
from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError, ResultError
from harness.results.atomic_write import whole
from harness.urls import is_url, without_passwords

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

# what is kept alike, by its path below the store
_KEPT = re.compile(
    r"\d{4}-\d{2}/\d{8}T\d{6}Z-[0-9a-f]{6}\.parquet|acknowledged/[0-9TZ.]+-[0-9a-f]{6}\.json"
)
_DEPTH = 2  # folders of the store's own
# Where a file appears when it is whole; elsewhere it is written beside its place and renamed.
_OBJECTS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci"}
_EXTRAS = {"s3": "s3", "s3a": "s3"}  # protocol -> the extra of ours that brings it
_SSH = {"sftp", "ssh"}


def local(word: str) -> Path:
    """The directory of a store that a person named; of a URL its mirror, brought up to date.

    Raises ResultError when that cannot be done.
    """
    if not is_url(word):
        return Path(word).expanduser()
    remote = Remote(word)
    remote.pull()
    return remote.mirror


def push(word: str) -> list[str]:
    """After something was written into `local(word)`: send it. As Remote.push; for a directory
    there is nothing to do."""
    return Remote(word).push() if is_url(word) else []


@dataclass(frozen=True)
class Remote:
    """A store at a URL. Making one connects to nothing.

    Raises ResultError when nothing here understands the URL, or it holds a password.
    """

    url: str

    def __post_init__(self) -> None:
        if (shown := without_passwords(self.url)) != self.url:
            raise ResultError(
                f"{shown}: a password does not belong into a URL",
                hint="Use a key (SFTP: of the agent or ~/.ssh), or what the service's own files "
                "and environment variables say.",
            )
        self._class()

    @property
    def protocol(self) -> str:
        return self.url.partition("://")[0]

    @property
    def mirror(self) -> Path:
        """Under $XDG_STATE_HOME, or ~/.local/state; one for each URL. No cache: what could not be
        sent yet is nowhere else."""
        url = self.url.rstrip("/")
        name = re.sub(r"[^\w.-]+", "-", url)[:60].strip("-.")
        base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
        key = hashlib.sha256(url.encode()).hexdigest()[:12]
        return Path(base).expanduser() / "pytest-hypervisor" / "results" / f"{name}-{key}"

    def pull(self) -> list[str]:
        """Bring what the mirror lacks; the paths below the store. Raises ResultError."""
        with self._told("read"), self._open() as (files, root):
            lacked = sorted(_there(files, root) - self._here())
            for name in lacked:
                with whole(self.mirror / name, sync=True) as partial:
                    files.get_file(f"{root}/{name}", str(partial))
        return lacked

    def push(self) -> list[str]:
        """Send what the store lacks, of this session and of earlier ones; the paths below the
        store. Raises ResultError; what was not sent stays in the mirror."""
        hint = f"What is new is safe in {self.mirror}; the next session or command sends it."
        with self._told("written", hint):
            if not self._here():
                return []
            with self._open() as (files, root):
                lacked = sorted(self._here() - _there(files, root))
                for name in lacked:
                    self._send(files, self.mirror / name, f"{root}/{name}")
        return lacked

    def _send(self, files: AbstractFileSystem, path: Path, place: str) -> None:
        if self.protocol in _OBJECTS:
            files.put_file(str(path), place)
            return
        folder, _, name = place.rpartition("/")
        partial = f"{folder}/.{name}.{secrets.token_hex(4)}.tmp"
        try:
            files.makedirs(folder, exist_ok=True)
        except OSError:
            if not files.isdir(folder):  # it was there a moment ago: another machine's first night
                raise
        try:
            files.put_file(str(path), partial)
            files.mv(partial, place)
        except BaseException:
            with contextlib.suppress(Exception):
                files.rm_file(partial)
            raise

    def _here(self) -> set[str]:
        return {
            name
            for path in self.mirror.glob("*/*")
            if _KEPT.fullmatch(name := path.relative_to(self.mirror).as_posix())
        }

    @contextlib.contextmanager
    def _open(self) -> Iterator[tuple[AbstractFileSystem, str]]:
        """The file system, and the store's path in it."""
        kind = self._class()
        path = kind._strip_protocol(self.url)
        files = kind(**kind._get_kwargs_from_urls(self.url), skip_instance_cache=True)
        try:
            files.invalidate_cache()
            yield files, str(path).rstrip("/")
        finally:
            if self.protocol in _SSH:
                files.client.close()

    def _class(self) -> type[AbstractFileSystem]:
        if self.protocol in _SSH:
            from harness.results.sftp import KnownSFTP

            return KnownSFTP
        import fsspec

        try:
            found: type[AbstractFileSystem] = fsspec.get_filesystem_class(self.protocol)
        except ValueError as error:
            raise ResultError(
                f"{self.url}: {error}", hint="Name a directory, or a URL of file, sftp or s3."
            ) from error
        except ImportError as error:
            extra = _EXTRAS.get(self.protocol)
            raise ResultError(
                f"{self.url}: {error}",
                hint=f"pip install '.[{extra}]' in the checkout" if extra else "Install that.",
            ) from error
        return found

    @contextlib.contextmanager
    def _told(self, what: str, hint: str = "") -> Iterator[None]:
        """Each of these file systems has errors of its own."""
        try:
            yield
        except ResultError as error:
            raise ResultError(error.cause, hint=f"{error.hint} {hint}".strip()) from error
        except Exception as error:
            cause, first = str(error) or type(error).__name__, "Look whether it can be reached"
            if isinstance(error, HarnessError):
                cause, first = error.cause, error.hint
            raise ResultError(
                f"{self.url} cannot be {what}: {cause}", hint=f"{first}. {hint}".strip()
            ) from error


def _there(files: AbstractFileSystem, root: str) -> set[str]:
    """What a store has of what lasts; a store that is not there has nothing. What cannot be listed
    is an error, never an empty store."""

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    try:
        found: list[Any] = files.find(root, maxdepth=_DEPTH, on_error=fail)
    except FileNotFoundError:
        return set()
    base = PurePosixPath(root)
    paths = (PurePosixPath(one) for one in found)
    names = (path.relative_to(base).as_posix() for path in paths if path.is_relative_to(base))
    return {name for name in names if _KEPT.fullmatch(name)}
