"""fio: the command line of a job, and the figures of its JSON output."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from harness.errors import WorkloadError

PERCENTILES = {"p50": "50.000000", "p99": "99.000000", "p99.9": "99.900000"}


@dataclass(frozen=True)
class Job:
    """One fio job. bs: bytes. size: MiB. warm_up, runtime: seconds."""

    rw: str = "randread"
    bs: int = 4096
    depth: int = 1
    size: int = 64
    warm_up: int = 1
    runtime: int = 2

    def argv(self, filename: str, seconds: int) -> list[str]:
        """A run of the job on a file or device.

        The warm-up is a separate run, because fio does not count the requests of its ramp time.
        """
        return [
            *("fio", "--name=job", f"--filename={filename}", f"--rw={self.rw}"),
            *(f"--bs={self.bs}", f"--iodepth={self.depth}", "--ioengine=libaio", "--direct=1"),
            *(f"--size={self.size}M", "--time_based"),
            *(f"--runtime={seconds}", "--randseed=1", "--output-format=json"),
            *("--lat_percentiles=0", "--clat_percentiles=1", "--percentile_list=50:99:99.9"),
        ]

    def startup_argv(self, filename: str) -> list[str]:
        """A run with one request. Its cost is that of fio's start and end."""
        return ["fio", "--name=job", f"--filename={filename}", "--size=4k", "--direct=1"]

    @property
    def timeout(self) -> float:
        return 60.0 + self.warm_up + self.runtime


# The first job's warm-up serves all jobs.
SHORT = (Job(), Job(depth=32, warm_up=0), Job(rw="randwrite", depth=32, warm_up=0))
FULL = tuple(
    Job(rw=rw, depth=depth, warm_up=10, runtime=30)
    for rw in ("randread", "randwrite", "read", "write")
    for depth in (1, 4, 32)
)


def parse_figures(output: str, where: str) -> dict[str, float]:
    """Figures of fio's JSON: "iops", "clat.p50" and so on (us), and "requests" (their number).

    where: where fio ran, for errors. Raises WorkloadError if the JSON is invalid.
    """
    try:
        # fio may print warnings before its JSON.
        job: dict[str, Any] = json.loads(output[output.index("{") :])["jobs"][0]
        direction = max((job["read"], job["write"]), key=lambda side: side["total_ios"])
        values = {"iops": float(direction["iops"])}
        for name, key in PERCENTILES.items():
            values[f"clat.{name}"] = direction["clat_ns"]["percentile"][key] / 1e3
        values["requests"] = float(direction["total_ios"])
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise WorkloadError(
            f"fio on the {where} printed no valid JSON: {output[-200:]!r}",
            hint="run the fio command there by hand",
            stage="run",
        ) from error
    if not values["iops"] > 0:
        raise WorkloadError(
            f"fio on the {where} completed no request",
            hint="check the disk of the job, and the job's runtime",
            stage="run",
        )
    return values
