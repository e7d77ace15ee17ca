"""The heat map: each cell has the shade of its share, at each width."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports import svg
from reports.heat_map import SHADES, HeatMap, Row, draw
from tests.reports.page import parse

COLUMNS = 28
STEP = re.compile(r"M([\d.]+) ([\d.]+)h([\d.]+)v13h-([\d.]+)z")
SHARES = st.floats(-1, 3) | st.sampled_from([math.nan, math.inf, *SHADES])


def shade(share: float) -> int | None:
    """By the legend, apart from rounding at the ends."""
    return None if not math.isfinite(share) else sum(share > end + 1e-3 for end in SHADES)


@pytest.mark.parametrize("width", [svg.WIDE, svg.NARROW])
@given(st.lists(st.lists(SHARES, min_size=COLUMNS, max_size=COLUMNS), min_size=1, max_size=4))
def test_cells_have_the_shade_of_their_share(width: float, table: list[list[float]]) -> None:
    rows = [Row(f"host-{number}", cells, "", "") for number, cells in enumerate(table)]
    heat = HeatMap("title", "description", rows, tuple("MTWTFSS"))
    page = parse(draw(heat)(width).render())
    frame = page.all("rect")[-1].attributes
    left, column = float(frame["x"]), float(frame["width"]) / COLUMNS
    tops = sorted(
        float(one.attributes["y"]) for one in page.all("rect") if one.attributes["class"] == "hover"
    )
    found: dict[tuple[int, int], int] = {}
    for path in page.all("path"):
        number = int(path.attributes["class"].removeprefix("cells heat"))
        for x, y, wide, back in STEP.findall(path.attributes["d"]):
            assert wide == back
            first = round((float(x) - left) / column)
            for at in range(first, first + round(float(wide) / column)):
                place = tops.index(float(y)), at
                assert place not in found
                found[place] = number
    expected = {
        (row, at): shade(share)
        for row, cells in enumerate(table)
        for at, share in enumerate(cells)
        if shade(share) is not None
    }
    assert found == expected


def test_long_names_keep_both_ends_and_shades_above_all_are_in_the_legend() -> None:
    full = HeatMap("t", "d", [Row("frankfurt-rack-7-host-012", [0.5, 1.2], "", "")], ("Mon",))
    texts = [one.text for one in parse(draw(full)(svg.NARROW).render()).all("text")]
    (name,) = [one for one in texts if "…" in one]
    assert name.startswith("fra")
    assert name.endswith("012")
    assert "above 100 %" in texts
    calm = HeatMap("t", "d", [Row("a", [0.5, 1.0005], "", "")], ("Mon",))
    texts = [one.text for one in parse(draw(calm)(svg.WIDE).render()).all("text")]
    assert "above 100 %" not in texts
