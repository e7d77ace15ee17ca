"""The archive with the agent and all that it imports, for the Python of any host."""

from __future__ import annotations

import importlib.util
import io
import marshal
import zipfile
from functools import cache
from pathlib import Path

import harness

_PACKAGES = ("agent", "kvm", "vmm")
_MAIN = "from harness.agent.supervisor import main\n\nmain()\n"
# The host's Python runs this. It reads the archive from standard input into a memfd, before the
# protocol starts. So the start is one command, and no file remains on the host.
START = f"""\
import os, sys
fd = os.memfd_create("agent")
left = int(sys.argv[1])
while left and (data := os.read(0, min(left, 65536))):
    left -= os.write(fd, data)
sys.path.insert(0, f"/proc/self/fd/{{fd}}")
{_MAIN}"""
_UNCHECKED_HASH = (1).to_bytes(4, "little")  # PEP 552: Python never compares the .pyc to its source
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same sources give the same archive


@cache
def archive() -> bytes:
    """harness.agent, vmm and kvm as a zipapp, which `python3 FILE` runs.

    It has each module's source and its compiled form. The compiled form saves a second of each
    start on an emulated host. Another version of Python detects another magic number and uses the
    source.
    """
    root = Path(harness.__file__).parent
    sources = {
        f"harness/{path.relative_to(root)}": path.read_bytes()
        for package in _PACKAGES
        for path in (root / package).rglob("*.py")
    }
    sources["harness/__init__.py"] = b""
    sources["__main__.py"] = _MAIN.encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:  # not compressed: the host reads it at each start
        for name in sorted(sources):
            file.writestr(zipfile.ZipInfo(name, _EPOCH), sources[name])
            file.writestr(zipfile.ZipInfo(f"{name}c", _EPOCH), _compiled(name, sources[name]))
    return buffer.getvalue()


def _compiled(name: str, source: bytes) -> bytes:
    """A .pyc file (PEP 552)."""
    code = compile(source, name, "exec", dont_inherit=True)
    header = importlib.util.MAGIC_NUMBER + _UNCHECKED_HASH + importlib.util.source_hash(source)
    return header + marshal.dumps(code)
