"""The archive that is sent to a host: the agent's sources and compiled modules."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.errors import HostError
from harness.hosts.local import LocalHost
from harness.hypervisors.agent_client import AgentClient
from harness.hypervisors.archive import archive

ASK = """
import sys; sys.path.insert(0, sys.argv[1])
import harness.agent.supervisor, harness.vmm.machine
print(harness.agent.supervisor.__file__, harness.vmm.machine.__file__, sep="\\n")
"""


def loaded_suffixes(program: bytes, folder: Path) -> list[str]:
    """The suffixes of the files from which an interpreter imports two modules."""
    path = folder / "agent.pyz"
    path.write_bytes(program)
    argv = [sys.executable, "-I", "-S", "-c", ASK, str(path)]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    return [Path(line).suffix for line in done.stdout.splitlines()]


def of_another_version(program: bytes) -> bytes:
    """The same archive, as compiled by another version of Python."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(program)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, b"\x01\x02\r\n" + data[4:] if name.endswith(".pyc") else data)
    return buffer.getvalue()


def test_same_python_imports_compiled_modules(tmp_path: Path) -> None:
    assert loaded_suffixes(archive(), tmp_path) == [".pyc", ".pyc"]


def test_other_python_imports_sources(tmp_path: Path) -> None:
    assert loaded_suffixes(of_another_version(archive()), tmp_path) == [".py", ".py"]


def test_every_source_has_a_compiled_module() -> None:
    with zipfile.ZipFile(io.BytesIO(archive())) as file:
        names = set(file.namelist())
    sources = {name for name in names if name.endswith(".py")}
    assert names == sources | {f"{name}c" for name in sources}
    assert {"__main__.py", "harness/vmm/machine.py", "harness/agent/supervisor.py"} <= sources


def test_host_without_python_raises_an_error_with_a_hint() -> None:
    class HostWithoutPython(LocalHost):
        def spawn(self, argv: Sequence[str]) -> Any:
            return super().spawn(["sh", "-c", "echo python3: not found >&2; exit 127"])

    host = HostWithoutPython("tests")
    with pytest.raises(HostError, match="python3: not found") as error:
        AgentClient(host)
    assert "python3 >= 3.9" in error.value.hint
    host.close()


def test_archive_is_not_written_to_the_hosts_disk() -> None:
    host = LocalHost("tests")
    supervisor = AgentClient(host)
    files = [path.readlink() for path in Path(f"/proc/{supervisor.pid}/fd").iterdir()]
    assert sum("memfd:agent" in str(path) for path in files) == 1
    assert not any(path.suffix == ".pyz" for path in files)
    supervisor.close()
    host.close()
