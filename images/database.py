"""Makes the PostgreSQL database of an image, by the image's own programs.

The database has pgbench's tables. It holds the time at which it was made and a random number, so
two builds of it differ.
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from .recipe import FOLDER
from .rootfs import RootTar
from .run import run

NOBODY = 65534  # the owner in the image: PostgreSQL refuses to run as root
_PARENT = "var/lib/postgresql"
_FOLDER = f"{_PARENT}/data"
_SCRIPT = FOLDER / "workload" / "database.sh"


def add_database(root: RootTar, system: Path, scratch: Path) -> None:
    """Make the database in a new folder and add it to an image.

    Args:
        system: the tar of the image without the database.
        scratch: the folder to create.

    Raises:
        ImageError: a program of PostgreSQL failed.
    """
    (scratch / _PARENT).mkdir(parents=True)
    run(["tar", "--extract", "--no-same-owner", "--file", str(system), "--directory", str(scratch)])
    (scratch / "dev" / "null").touch()
    for path in (scratch, scratch / "tmp", scratch / "dev" / "null", scratch / _PARENT):
        path.chmod(0o777)
    run([*_enter(scratch), "/bin/sh", "-euc", _SCRIPT.read_text(), "database.sh", f"/{_FOLDER}"])
    root.add_tree(f"/{_FOLDER}", scratch / _FOLDER, owner=NOBODY)


def _enter(folder: Path) -> list[str]:
    """The start of a command line that runs a program in `folder` without the rights of root."""
    if os.geteuid() == 0:
        return ["chroot", f"--userspec={NOBODY}:{NOBODY}", str(folder)]
    user = pwd.getpwuid(os.geteuid())
    with (folder / "etc" / "passwd").open("a") as file:
        file.write(f"builder:x:{user.pw_uid}:{user.pw_gid}::/:/bin/sh\n")
    return ["unshare", "--map-current-user", f"--root={folder}", "--wd=/"]
