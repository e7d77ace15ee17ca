"""Compiles Python's standard library, as Debian does when it configures the package.

Without this, each start of Python on an emulated host compiles dozens of modules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from .rootfs import unpack_packages
from .run import run

# the packages that the interpreter needs to run
_INTERPRETER = (
    "libc6", "libexpat1", "zlib1g", "libpython3", "python3.", "libgcc-s1", "libbz2-1.0",
    "liblzma5", "libssl3", "libffi8", "libuuid1",
)  # fmt: skip
_EXCLUDED = r"/(test|tests|idlelib|lib2to3|distutils|ensurepip|turtledemo|tkinter|pydoc_data)/"


def compile_standard_library(debs: Sequence[Path], scratch: Path) -> Iterator[tuple[str, bytes]]:
    """Paths ("usr/lib/python3.11/...pyc") and contents of the compiled standard library.

    The image's interpreter and loader do this, so that this machine's Python does not matter.
    unchecked-hash leaves time stamps out: the bytes are the same at every build.

    Args:
        debs: all packages of the image.
        scratch: an empty folder for the unpacked interpreter.
    """
    unpack_packages([deb for deb in debs if deb.name.startswith(_INTERPRETER)], scratch)
    library = next((scratch / "usr/lib").glob("python3.*"))
    libraries = [scratch / base / "x86_64-linux-gnu" for base in ("lib", "usr/lib")]
    run(
        [
            str(scratch / "lib64/ld-linux-x86-64.so.2"),
            "--library-path", ":".join(map(str, libraries)),
            str(scratch / "usr/bin" / library.name), "-I", "-B",
            "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash",
            "-x", _EXCLUDED, "-s", str(scratch), "-p", "/", str(library),
        ],
        env={"PYTHONHASHSEED": "0", "PYTHONHOME": str(scratch / "usr"), "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    for path in sorted(library.rglob("*.pyc")):
        yield str(path.relative_to(scratch)), path.read_bytes()
