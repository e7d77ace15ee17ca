"""HdrHistogram logs, read back with HdrHistogram's own reader."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

from suites.consolidation.histograms import DIGITS, HIGHEST, write_log

START = 1_700_000_000.25
NAMES = ("web", "cache", "web", "my, guest")


def log_of(seconds: float, seed: int = 1) -> pd.DataFrame:
    """Random requests of 4 guests, a few of them before and after the window."""
    random = np.random.default_rng(seed)
    count = 20_000
    return pd.DataFrame(
        {
            "target": random.integers(0, 4, count),
            "scheduled": START - 0.5 + random.uniform(0, seconds + 1, count),
            "delay": 0.0,
            "latency": random.lognormal(-6, 1.5, count),
            "good": True,
        }
    )


def window(log: pd.DataFrame, seconds: float) -> pd.DataFrame:
    return log[(log["scheduled"] >= START) & (log["scheduled"] < START + seconds)]


def read_back(path: Path) -> dict[str, list[HdrHistogram]]:
    """The histograms of each tag."""
    reader = HistogramLogReader(str(path), HdrHistogram(1, HIGHEST, DIGITS))
    found: dict[str, list[HdrHistogram]] = {}
    while (histogram := reader.get_next_interval_histogram()) is not None:
        found.setdefault(histogram.get_tag(), []).append(histogram)
    reader.close()
    return found


def total(histograms: list[HdrHistogram]) -> HdrHistogram:
    whole = HdrHistogram(1, HIGHEST, DIGITS)
    for one in histograms:
        whole.add(one)
    return whole


def test_percentiles_are_those_of_the_requests(tmp_path: Path) -> None:
    log = log_of(10)
    write_log(tmp_path / "new" / "1.hlog", window(log, 10), NAMES, START, START + 10)
    found = read_back(tmp_path / "new" / "1.hlog")
    assert set(found) == {"web", "cache", "my_guest"}
    for tag, targets in (("web", [0, 2]), ("cache", [1]), ("my_guest", [3])):
        assert len(found[tag]) == 10
        own = window(log, 10)
        latencies = own[own["target"].isin(targets)]["latency"]
        whole = total(found[tag])
        assert whole.get_total_count() == len(latencies)
        for percentile in (1, 50, 90, 99, 99.9, 100):
            value = whole.get_value_at_percentile(percentile)
            # ranks are rounded in different ways, so the neighbours of numpy's value are right, too
            around = 100 / len(latencies)
            low, high = (
                1e6 * np.percentile(latencies, min(max(at, 0), 100), method="inverted_cdf")
                for at in (percentile - around, percentile + around)
            )
            assert low * 0.999 - 1 <= value <= high * 1.001 + 1


def test_intervals_are_seconds_of_the_window(tmp_path: Path) -> None:
    log = log_of(2.5)
    write_log(tmp_path / "a.hlog", window(log, 2.5), NAMES, START, START + 2.5)
    (cache,) = [found for tag, found in read_back(tmp_path / "a.hlog").items() if tag == "cache"]
    times = [
        (one.get_start_time_stamp() / 1000 - START, one.get_end_time_stamp() / 1000 - START)
        for one in cache
    ]
    assert times == [pytest.approx(pair, abs=0.002) for pair in ((0, 1), (1, 2), (2, 2.5))]
    own = window(log, 2.5)
    for second, one in enumerate(cache):
        since = own["scheduled"] - START
        expected = (own["target"] == 1) & (since >= second) & (since < second + 1)
        assert one.get_total_count() == expected.sum()


def test_unanswered_requests_show_in_the_percentiles(tmp_path: Path) -> None:
    log = log_of(5).assign(target=0)
    lost = log.index[::10]
    log.loc[lost, "good"], log.loc[lost, "latency"] = False, np.inf
    write_log(tmp_path / "a.hlog", window(log, 5), NAMES, START, START + 5)
    whole = total(read_back(tmp_path / "a.hlog")["web"])
    assert whole.get_value_at_percentile(85) < 1e6
    assert whole.get_value_at_percentile(95) >= HIGHEST
    assert "without a good answer counts as 3600000000 us" in (tmp_path / "a.hlog").read_text()


def test_lines_have_the_format_of_version_1_3(tmp_path: Path) -> None:
    write_log(tmp_path / "a.hlog", window(log_of(2), 2), NAMES, START, START + 2)
    lines = (tmp_path / "a.hlog").read_text().splitlines()
    assert lines[0] == "#[Histogram log format version 1.3]"
    assert "#[StartTime: 1700000000.250 (seconds since epoch)]" in lines
    body = [line for line in lines if not line.startswith(("#", '"'))]
    assert len(body) == 6
    pattern = r"Tag=[^,\s]+,\d+\.\d{3},\d\.\d{3},\d+\.\d{3},HISTFA[A-Za-z0-9+/=]+"
    assert all(re.fullmatch(pattern, line) for line in body)


def test_window_without_requests_has_a_header_only(tmp_path: Path) -> None:
    write_log(tmp_path / "a.hlog", log_of(2)[:0], NAMES, START, START + 2)
    assert read_back(tmp_path / "a.hlog") == {}
