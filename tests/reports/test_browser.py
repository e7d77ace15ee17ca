"""The page in a real browser, where one is installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from reports.run import render
from tests.results.synthetic import write_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""

# Drives the page from outside: the page's own policy forbids any script but its own.
DRIVER = """<!DOCTYPE html><meta charset="utf-8"><pre id="told"></pre>
<iframe src="page.html" width="%d" height="900"></iframe>
<script>
onload = () => {
  const page = frames[0].document, exits = page.querySelector("#exits table");
  const names = () =>
    [...exits.tBodies[0].rows].map((r) => r.cells[0].firstChild.textContent.trim());
  const button = exits.querySelectorAll("th button")[1], told = {};
  button.click(); told.up = names(); told.first = button.parentNode.ariaSort;
  button.click(); told.down = names(); told.second = button.parentNode.ariaSort;
  const box = page.querySelector("#io input");
  box.value = "randwrite"; box.dispatchEvent(new Event("input"));
  const rows = [...page.querySelector("#io table").tBodies[0].rows];
  told.filtered = [rows.filter((r) => !r.hidden).length, rows.length];
  told.said = page.querySelector("#io [aria-live]").textContent;
  told.overflow = page.documentElement.scrollWidth - page.documentElement.clientWidth;
  const shown = (drawing) => drawing.getBoundingClientRect().width > 0;
  told.drawn = [...page.querySelectorAll("svg")].filter(shown).length;
  told.figures = page.querySelectorAll("figure").length;
  told.loaded = frames[0].performance.getEntriesByType("resource").map((e) => e.name);
  document.getElementById("told").textContent = JSON.stringify(told);
};
</script>"""


@pytest.mark.skipif(not CHROMIUM, reason="no chromium here: apt-get install chromium")
@pytest.mark.parametrize("width", [1280, 400])
def test_page_in_chromium(tmp_path: Path, width: int) -> None:
    render(write_run(tmp_path / "store"), tmp_path / "page.html")
    driver = tmp_path / "driver.html"
    driver.write_text(DRIVER % width, encoding="utf-8")
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    plain = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    reading = [
        *(f"--user-data-dir={tmp_path / 'profile'}", "--allow-file-access-from-files"),
        *("--enable-logging=stderr", "--dump-dom", "--virtual-time-budget=5000"),
    ]
    ended = subprocess.run(
        [CHROMIUM, *plain, *quiet, *reading, driver.as_uri()],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "CONSOLE" not in ended.stderr
    found = re.search(r'<pre id="told">(.+?)</pre>', ended.stdout)
    assert found, ended.stdout[:500]
    told = json.loads(found[1])
    assert told["up"] == ["control", "cpuid", "hypercall_null", "pio_kernel", "pio_user"]
    assert told["down"] == told["up"][::-1]
    assert (told["first"], told["second"]) == ("ascending", "descending")
    assert told["filtered"] == [4, 12]
    assert told["said"] == "4 of 12 rows"
    assert told["overflow"] <= 0
    assert told["drawn"] == told["figures"] > 0
    assert [name for name in told["loaded"] if not name.startswith("data:")] == []
