from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from harness import scratch


def test_a_dead_sessions_directory_is_removed_and_ours_is_kept(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from harness import scratch; "
        f"print(scratch.make(Path({str(tmp_path)!r})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    left = Path(done.stdout.strip())
    (left / "file").write_text("left by a process that is no more")
    ours = scratch.make(tmp_path)
    assert not left.exists()
    assert scratch.sweep(tmp_path) == []
    assert ours.stat().st_mode & 0o777 == 0o700
    (tmp_path / "harness-mine").mkdir()  # not a name of ours
    scratch.sweep(tmp_path)
    assert (tmp_path / "harness-mine").exists()
