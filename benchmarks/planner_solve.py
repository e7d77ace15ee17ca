"""Time, memory and gap of a whole plan: `plan import` and `plan solve` on a large seeded trace.

    python -m benchmarks.planner_solve --machines 10000 --days 30

The trace is that of planner_import. Each command runs in a process of its own, so that its peak of
resident memory is known. The plan is verified on all samples by `plan solve` itself.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.planner_import import measure, write_trace
from harness.planner.plan_file import read_plan

HOSTS = """\
[host.new]
cores = 64
threads = 128
memory_gib = 1024
iops = 400000
network_mib_s = 5000
rack_units = 2
hosts_per_rack = 16
"""


def solve(folder: Path, seconds: float, options: list[str]) -> dict[str, Any]:
    """Plan the data in a folder; what `plan solve` took, and what it found."""
    (folder / "hosts.toml").write_text(HOSTS)
    out = folder / "plan.json"
    command = [sys.executable, "-m", "harness", "plan", "solve", str(folder / "data")]
    command += ["--hosts", str(folder / "hosts.toml"), "--out", str(out)]
    command += ["--seconds", str(seconds), *options]
    start = time.perf_counter()
    subprocess.run(command, check=True)
    taken = time.perf_counter() - start
    plan = read_plan(out)
    peaks = [share for host in plan.hosts for share in host.peak.values()]
    return {
        "solve_seconds": round(taken, 1),
        # of the largest child, which is not the import: that has less
        "solve_peak_mib": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024),
        "hosts": plan.after.hosts,
        "bound": plan.bound,
        "gap": round(plan.after.hosts / plan.bound - 1, 4),
        "highest_share": round(max(peaks), 6),
        "banners": plan.banners,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--machines", type=int, default=1000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60, help="of the solver")
    parser.add_argument("--folder", type=Path, help="keep the trace, the data and the plan there")
    arguments, options = parser.parse_known_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="planner-solve-"))
    source = folder / f"source-parquet-{arguments.machines}"
    try:
        if not source.exists():
            write_trace(source, arguments.machines, arguments.days, arguments.seed)
            shutil.rmtree(folder / "data", ignore_errors=True)
        found: dict[str, Any] = {}
        if not (folder / "data").exists():
            found = {f"import_{k}": v for k, v in measure(source, folder / "data").items()}
        print(json.dumps({**found, **solve(folder, arguments.seconds, options)}))
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
