"""Temporary directories of dead processes are removed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from harness import scratch


def test_make_removes_directories_of_dead_processes(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from harness import scratch; "
        f"print(scratch.make(Path({str(tmp_path)!r})))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    orphan = Path(result.stdout.strip())
    (orphan / "file").write_text("content")
    own = scratch.make(tmp_path)
    assert not orphan.exists()
    assert scratch.sweep(tmp_path) == []
    assert own.stat().st_mode & 0o777 == 0o700
    (tmp_path / "harness-mine").mkdir()  # another pattern
    scratch.sweep(tmp_path)
    assert (tmp_path / "harness-mine").exists()
