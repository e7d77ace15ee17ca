"""The report of a run with a million samples."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.results.schema import COLUMNS, SCHEMA, encode_parameters, schema_with_metadata
from reports.run import render
from tests.reports.checks import checked_page
from tests.results.synthetic import CASES, HOST, START, facts

RUN = "20260102T030405Z-abcdef"
# CPU time; an idle machine needs 5 s
MOST_SECONDS = 20.0


def block(metric: str, unit: str, better: str, level: float, **more: object) -> pd.DataFrame:
    """The samples of one figure: one for each boot and batch."""
    boots, batches = int(str(more.pop("boots", 10))), int(str(more.pop("batches", 1)))
    count = boots * batches
    random = np.random.default_rng(count)
    batch = np.tile(np.arange(batches), boots)
    fixed = {
        **{"metric": metric, "unit": unit, "better": better, "run": RUN, "suite": "made-up"},
        **{"test": "suites/made_up.py::test", "parameters": "{}", "hypervisor": "kvm"},
        **{"backend": "emulated", "host": HOST, "image": "sha256:feed", "commit": "c0ffee"},
        **{"attempt": 1, "item": "suites/made_up.py::test", **more},
    }
    return pd.DataFrame(
        {
            "value": level * random.lognormal(0, 0.03, count),
            "boot": np.repeat(np.arange(boots), batches),
            "batch": batch,
            "time": pd.to_datetime(START + timedelta(hours=1)) + pd.to_timedelta(batch, unit="s"),
            **fixed,
        }
    )


def million() -> pd.DataFrame:
    blocks = []
    for name in ("native", "kvm", "qemu"):
        for case, (cost, _) in CASES.items():
            parameters = encode_parameters({"ops": 1000, "instructions": 3, "case": case})
            more = {"hypervisor": name, "parameters": parameters, "batches": 2400}
            blocks.append(block(f"exit.{case}", "ns", "lower", 22 + cost, **more))
            blocks.append(block(f"exit.{case}.cycles", "cycles", "lower", 44 + 2 * cost, **more))
        for number in range(40):
            more = {
                "hypervisor": name,
                "parameters": encode_parameters({"depth": number}),
                "batches": 30,
            }
            blocks.append(block("io.iops", "IOPS", "higher", 4000, **more))
    blocks += [
        block(f"host.cpu.{part}", "%", "none", 15, boots=1, batches=41_000)
        for part in ("user", "system", "guest", "iowait", "steal", "idle")
    ]
    return pd.concat(blocks, ignore_index=True)


@pytest.mark.slow
def test_page_of_a_million_samples_is_fast_and_small(tmp_path: Path) -> None:
    frame = million()
    assert len(frame) >= 1_000_000
    schema = schema_with_metadata(RUN, facts(run=RUN, hypervisor="native, kvm, qemu"))
    path = tmp_path / f"{RUN}.parquet"
    table = pa.Table.from_pandas(frame[list(COLUMNS)], schema=SCHEMA, preserve_index=False)
    pq.write_table(table.cast(schema), path, compression="zstd")
    began = time.process_time()
    out = render(path, tmp_path / "page.html")
    assert time.process_time() - began < MOST_SECONDS
    page = checked_page(out.read_text(encoding="utf-8"))
    assert f"cannot hold all {len(frame):,} samples" in page.id("raw").text
    assert "n = 24,000 for each case" in page.id("exits").text
