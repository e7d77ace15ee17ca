"""Remote stores: `--virt-results=URL`, for every URL that fsspec supports.

A session works on a mirror, which is a local directory of the user; spools and pages stay there.
Run files and acknowledgements are immutable, so synchronizing copies the files that one side does
not have. A file must be deleted from both sides, or it comes back.
"""

# ruff: noqa: PLC0415 - fsspec and paramiko are imported only for a URL
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
from harness.results.atomic_write import atomic_write
from harness.urls import is_url, without_passwords

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

# paths, below the store, of the files that are synchronized
_SYNCHRONIZED = re.compile(
    r"\d{4}-\d{2}/\d{8}T\d{6}Z-[0-9a-f]{6}\.parquet|acknowledged/[0-9TZ.]+-[0-9a-f]{6}\.json"
)
_MAX_DEPTH = 2  # folder levels of a store
# Object stores show a file only when it is complete. Others need a temporary name and a rename.
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci"}
_EXTRAS = {"s3": "s3", "s3a": "s3"}  # protocol -> extra of this distribution
_SSH = {"sftp", "ssh"}


def open_store(location: str) -> Path:
    """The directory of a store; for a URL its mirror, after a pull. Raises ResultError."""
    if not is_url(location):
        return Path(location).expanduser()
    remote = RemoteStore(location)
    remote.pull()
    return remote.mirror


def push(location: str) -> list[str]:
    """Upload new files of `open_store(location)`, as RemoteStore.push; no-op for a directory."""
    return RemoteStore(location).push() if is_url(location) else []


@dataclass(frozen=True)
class RemoteStore:
    """A store at a URL. The constructor does not connect.

    Raises ResultError when fsspec does not support the URL, or when it contains a password.
    """

    url: str

    def __post_init__(self) -> None:
        if (redacted := without_passwords(self.url)) != self.url:
            raise ResultError(
                f"{redacted} contains a password",
                hint="use a key (for SFTP, from the agent or ~/.ssh), or the configuration files "
                "and environment variables of the service",
            )
        self._file_system_class()

    @property
    def protocol(self) -> str:
        return self.url.partition("://")[0]

    @property
    def mirror(self) -> Path:
        """The mirror's directory below $XDG_STATE_HOME or ~/.local/state, one for each URL.

        It is not below the cache: files that are not uploaded yet exist nowhere else.
        """
        url = self.url.rstrip("/")
        name = re.sub(r"[^\w.-]+", "-", url)[:60].strip("-.")
        base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
        key = hashlib.sha256(url.encode()).hexdigest()[:12]
        return Path(base).expanduser() / "pytest-hypervisor" / "results" / f"{name}-{key}"

    def pull(self) -> list[str]:
        """Download the files that the mirror does not have; return their paths below the store.

        Raises ResultError.
        """
        with self._as_result_error("read"), self._connect() as (files, root):
            missing = sorted(_remote_paths(files, root) - self._local_paths())
            for name in missing:
                with atomic_write(self.mirror / name, sync=True) as partial:
                    files.get_file(f"{root}/{name}", str(partial))
        return missing

    def push(self) -> list[str]:
        """Upload the files that the store does not have, of this and of earlier sessions.

        Returns their paths below the store. Raises ResultError; files that are not uploaded stay in
        the mirror.
        """
        hint = f"new files stay in {self.mirror}; the next session or command uploads them"
        with self._as_result_error("written", hint):
            if not self._local_paths():
                return []
            with self._connect() as (files, root):
                missing = sorted(self._local_paths() - _remote_paths(files, root))
                for name in missing:
                    self._upload(files, self.mirror / name, f"{root}/{name}")
        return missing

    def _upload(self, files: AbstractFileSystem, path: Path, target: str) -> None:
        if self.protocol in _OBJECT_STORES:
            files.put_file(str(path), target)
            return
        folder, _, name = target.rpartition("/")
        partial = f"{folder}/.{name}.{secrets.token_hex(4)}.tmp"
        try:
            files.makedirs(folder, exist_ok=True)
        except OSError:
            # Another machine may create the same folder at the same time.
            if not files.isdir(folder):
                raise
        try:
            files.put_file(str(path), partial)
            files.mv(partial, target)
        except BaseException:
            with contextlib.suppress(Exception):
                files.rm_file(partial)
            raise

    def _local_paths(self) -> set[str]:
        return {
            name
            for path in self.mirror.glob("*/*")
            if _SYNCHRONIZED.fullmatch(name := path.relative_to(self.mirror).as_posix())
        }

    @contextlib.contextmanager
    def _connect(self) -> Iterator[tuple[AbstractFileSystem, str]]:
        """The file system, and the store's path in it."""
        kind = self._file_system_class()
        path = kind._strip_protocol(self.url)
        files = kind(**kind._get_kwargs_from_urls(self.url), skip_instance_cache=True)
        try:
            files.invalidate_cache()
            yield files, str(path).rstrip("/")
        finally:
            if self.protocol in _SSH:
                files.client.close()

    def _file_system_class(self) -> type[AbstractFileSystem]:
        if self.protocol in _SSH:
            from harness.results.known_hosts_sftp import KnownHostsSFTP

            return KnownHostsSFTP
        import fsspec

        try:
            kind: type[AbstractFileSystem] = fsspec.get_filesystem_class(self.protocol)
        except ValueError as error:
            raise ResultError(
                f"{self.url}: {error}", hint="name a directory, or a URL of file, sftp or s3"
            ) from error
        except ImportError as error:
            extra = _EXTRAS.get(self.protocol)
            install = f"run pip install '.[{extra}]' in the checkout" if extra else ""
            raise ResultError(
                f"{self.url}: {error}", hint=install or "install the missing package"
            ) from error
        return kind

    @contextlib.contextmanager
    def _as_result_error(self, action: str, hint: str = "") -> Iterator[None]:
        """Convert every exception to ResultError: each file system has its own exceptions."""
        try:
            yield
        except ResultError as error:
            raise ResultError(error.cause, hint=_join_hints(error.hint, hint)) from error
        except Exception as error:
            cause, first = str(error) or type(error).__name__, "check that it can be reached"
            if isinstance(error, HarnessError):
                cause, first = error.cause, error.hint
            raise ResultError(
                f"{self.url} cannot be {action}: {cause}", hint=_join_hints(first, hint)
            ) from error


def _join_hints(*hints: str) -> str:
    return "; ".join(filter(None, hints))


def _remote_paths(files: AbstractFileSystem, root: str) -> set[str]:
    """The synchronized files of a store; a missing store has none.

    A folder that cannot be listed is an error: as an empty store it would get all files again.
    """

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    try:
        listing: list[Any] = files.find(root, maxdepth=_MAX_DEPTH, on_error=fail)
    except FileNotFoundError:
        return set()
    base = PurePosixPath(root)
    paths = (PurePosixPath(one) for one in listing)
    names = (path.relative_to(base).as_posix() for path in paths if path.is_relative_to(base))
    return {name for name in names if _SYNCHRONIZED.fullmatch(name)}
