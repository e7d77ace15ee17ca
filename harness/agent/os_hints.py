"""Hints for errors of the operating system on a host."""

from __future__ import annotations

import errno

_HINTS = {
    errno.ENOSPC: "free space in the host's folder for temporary files",
    errno.EDQUOT: "free space in the host's folder for temporary files",
    errno.EMFILE: "raise the host's limit of open files (ulimit -n)",
    errno.ENFILE: "raise the host's limit of open files (sysctl fs.file-max)",
    errno.ENOMEM: "free memory on the host",
    errno.EACCES: "check the owner and the mode of the file on the host",
    errno.EPERM: "check the owner and the mode of the file on the host",
    errno.EROFS: "set TMPDIR to a writable folder on the host",
    errno.ENOENT: "set TMPDIR to a writable folder on the host",
}


def os_hint(error: OSError) -> str:
    """What to change on the host after this error."""
    return _HINTS.get(error.errno or 0, "check the host's kernel messages: dmesg")
