"""fio: one job's command line, and the figures of what it printed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from harness.errors import WorkloadError

PERCENTILES = {"p50": "50.000000", "p99": "99.000000", "p99.9": "99.900000"}


@dataclass(frozen=True)
class Job:
    """One fio job; the same words on both sides. warm_up, measured: seconds."""

    rw: str = "randread"
    bs: int = 4096
    depth: int = 1
    size: int = 64  # MiB
    warm_up: int = 1
    measured: int = 2

    def argv(self, filename: str, seconds: int) -> list[str]:
        """The warm-up is a run of its own: of a ramp within one nobody tells the requests."""
        return [
            *("fio", "--name=job", f"--filename={filename}", f"--rw={self.rw}"),
            *(f"--bs={self.bs}", f"--iodepth={self.depth}", "--ioengine=libaio", "--direct=1"),
            *(f"--size={self.size}M", "--time_based"),
            *(f"--runtime={seconds}", "--randseed=1", "--output-format=json"),
            *("--lat_percentiles=0", "--clat_percentiles=1", "--percentile_list=50:99:99.9"),
        ]

    def start(self, filename: str) -> list[str]:
        """A run with one request: what it costs is fio's own."""
        return ["fio", "--name=job", f"--filename={filename}", "--size=4k", "--direct=1"]

    @property
    def timeout(self) -> float:
        return 60.0 + self.warm_up + self.measured


# one warm-up for all
SHORT = (Job(), Job(depth=32, warm_up=0), Job(rw="randwrite", depth=32, warm_up=0))
FULL = tuple(
    Job(rw=rw, depth=depth, warm_up=10, measured=30)
    for rw in ("randread", "randwrite", "read", "write")
    for depth in (1, 4, 32)
)


def figures(text: str, where: str) -> dict[str, float]:
    """IOPS, completion latencies (us) and the number of requests, of fio's JSON.
    Raises WorkloadError for anything else."""
    try:
        # fio may print a warning before its JSON
        job: dict[str, Any] = json.loads(text[text.index("{") :])["jobs"][0]
        done = max((job["read"], job["write"]), key=lambda side: side["total_ios"])
        found = {"iops": float(done["iops"])}
        for name, key in PERCENTILES.items():
            found[f"clat.{name}"] = done["clat_ns"]["percentile"][key] / 1e3
        found["requests"] = float(done["total_ios"])
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise WorkloadError(
            f"fio on the {where} printed no usable JSON: {text[-200:]!r}",
            hint="run its command by hand there",
            stage="run",
        ) from error
    if not found["iops"] > 0:
        raise WorkloadError(f"fio on the {where} made no request", stage="run")
    return found
