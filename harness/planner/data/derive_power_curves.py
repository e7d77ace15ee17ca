"""Derive the default power curves from published SPECpower_ssj2008 results.

    python -m harness.planner.data.derive_power_curves specpower-curve-ends.csv

The source has the watts of each server at 100 % load and at active idle, its operations at 100 %
load, and its overall operations per watt. The last one is the sum of the operations at the loads
0 %, 10 %, ..., 100 %, divided by the sum of the watts there. So it gives the mean of the watts
between the two ends. A curve is P(u) = idle + (full - idle) * ((1 - bend) * u + bend * u^2); its
bend follows from that mean.

For each year and number of sockets, the table has the medians of idle, full and bend. Servers with
more than one node are left out, and years with less than MIN_RESULTS results.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

from harness.errors import PlanError
from harness.planner.energy import LOADS, TABLE

MIN_RESULTS = 5
_SOCKETS = (1, 2)
_COLUMNS = {
    "Date Submitted": "date",
    "Nodes": "nodes",
    "Chips": "sockets",
    "ssj_ops @ 100%": "operations",
    "avg. watts @ 100%": "full",
    "avg. watts @ active idle": "idle",
    "Result (Overall ssj_ops/watt)": "overall",
}
# sums of u and u^2 over LOADS
_SUM, _SQUARES = (sum((load / 100) ** power for load in LOADS) for power in (1, 2))


def main(argv: list[str] | None = None) -> int:
    """Write the table; return the exit status."""
    parser = argparse.ArgumentParser(description="Derive the default power curves.")
    parser.add_argument("source", type=Path, metavar="FILE", help="specpower-curve-ends.csv")
    parser.add_argument("-o", "--out", type=Path, default=TABLE, metavar="FILE")
    arguments = parser.parse_args(argv)
    derive(arguments.source).to_csv(arguments.out, index=False, lineterminator="\n")
    return 0


def derive(source: Path) -> pd.DataFrame:
    """The table: name, year, sockets, results, w0, w10, ..., w100."""
    results = _read(source)
    rows = []
    for _, group in results.groupby(["sockets", "year"]):
        if len(group) < MIN_RESULTS:
            continue
        sockets, year = (int(group[name].iloc[0]) for name in ("sockets", "year"))
        idle, full, bend = (float(group[name].median()) for name in ("idle", "full", "bend"))
        watts = {f"w{load}": round(_watts(load / 100, idle, full, bend), 2) for load in LOADS}
        about = {"year": year, "sockets": sockets, "results": len(group)}
        rows.append({"name": f"{sockets}-socket-{year}", **about, **watts})
    return pd.DataFrame(rows)


def _watts(load: float, idle: float, full: float, bend: float) -> float:
    return idle + (full - idle) * ((1 - bend) * load + bend * load**2)


def _read(source: Path) -> pd.DataFrame:
    """Complete results of servers with one node: sockets, year, idle, full, bend."""
    try:
        table = pd.read_csv(source, dtype=str, usecols=list(_COLUMNS)).rename(columns=_COLUMNS)
    except (OSError, ValueError) as error:
        raise PlanError(
            f"{source} has no SPECpower results: {error}",
            hint="name a copy of specpower-curve-ends.csv",
        ) from error
    numbers = table.drop(columns="date").apply(
        lambda column: pd.to_numeric(column.str.replace(",", ""), errors="coerce")
    )
    numbers["year"] = pd.to_datetime(table["date"], format="%b %d, %Y", errors="coerce").dt.year
    known = numbers[(numbers["nodes"] == 1) & numbers["sockets"].isin(_SOCKETS)].dropna()
    sum_of_watts = _SUM * known["operations"] / known["overall"]
    share = (sum_of_watts - len(LOADS) * known["idle"]) / (known["full"] - known["idle"])
    # outside of this range the curve would fall somewhere
    bend = ((_SUM - share) / (_SUM - _SQUARES)).clip(-1, 1)
    result: pd.DataFrame = known.assign(bend=bend)
    return result


if __name__ == "__main__":
    sys.exit(main())
