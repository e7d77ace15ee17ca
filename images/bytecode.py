"""Python's standard library compiled ahead: Debian does it when it configures the package.

Starting Python on an emulated host would compile dozens of modules at each start otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from .rootfs import unpack
from .run import run

# what the interpreter itself needs to run
_NEEDED = (
    "libc6", "libexpat1", "zlib1g", "libpython3", "python3.", "libgcc-s1", "libbz2-1.0",
    "liblzma5", "libssl3", "libffi8", "libuuid1",
)  # fmt: skip
_SKIP = r"/(test|tests|idlelib|lib2to3|distutils|ensurepip|turtledemo|tkinter|pydoc_data)/"


def compiled(debs: Sequence[Path], scratch: Path) -> Iterator[tuple[str, bytes]]:
    """Paths ("usr/lib/python3.11/...pyc") and contents of the compiled standard library.

    The image's own interpreter does it, through the image's own loader, so that nothing depends
    on this machine's Python. unchecked-hash: no time stamps, so the same bytes every time.

    Args:
        debs: all packages of the image.
        scratch: an empty folder for the unpacked interpreter.
    """
    unpack([deb for deb in debs if deb.name.startswith(_NEEDED)], scratch)
    library = next((scratch / "usr/lib").glob("python3.*"))
    libraries = [scratch / base / "x86_64-linux-gnu" for base in ("lib", "usr/lib")]
    run(
        [
            str(scratch / "lib64/ld-linux-x86-64.so.2"),
            "--library-path", ":".join(map(str, libraries)),
            str(scratch / "usr/bin" / library.name), "-I", "-B",
            "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash",
            "-x", _SKIP, "-s", str(scratch), "-p", "/", str(library),
        ],
        env={"PYTHONHASHSEED": "0", "PYTHONHOME": str(scratch / "usr"), "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    for path in sorted(library.rglob("*.pyc")):
        yield str(path.relative_to(scratch)), path.read_bytes()
