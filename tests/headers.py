"""What the C compiler makes of the kernel's headers."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest


def numbers(
    folder: Path,
    headers: Iterable[str],
    sizes: Iterable[str],
    offsets: Iterable[str],
    constants: Iterable[str],
) -> dict[str, int]:
    """Sizes of types, offsets ("struct s, member") and constants by their names."""
    if not shutil.which("gcc") or not Path("/usr/include/linux/kvm.h").exists():
        pytest.skip("no gcc or no kernel headers (linux-libc-dev)")
    expressions = {name: f"sizeof({name})" for name in sizes}
    expressions |= {name: f"offsetof({name})" for name in offsets}
    expressions |= {name: name for name in constants}
    lines = [
        f'printf("%s=%llu\\n", "{n}", (unsigned long long)({e}));' for n, e in expressions.items()
    ]
    source = folder / "numbers.c"
    text = "".join(f"#include <{name}>\n" for name in ("stdio.h", "stddef.h", *headers))
    source.write_text(text + "int main(void) {\n" + "\n".join(lines) + "\nreturn 0;\n}\n")
    subprocess.run(["gcc", "-o", folder / "numbers", source], check=True)
    out = subprocess.run([folder / "numbers"], check=True, capture_output=True, text=True).stdout
    return {name: int(value) for name, value in (line.rsplit("=", 1) for line in out.splitlines())}
