"""Debian's Chromium without a screen, driven by its own driver: real keys, real widths."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
DRIVER = shutil.which("chromedriver") or ""
QUIET = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--disable-quic", "--hide-scrollbars"),
)


def missing() -> str:
    """What must be installed first; "" when all is there."""
    if not CHROMIUM:
        return "no chromium here: apt-get install chromium"
    if not DRIVER:
        return "no chromedriver here: apt-get install chromium-driver"
    absent = [name for name in ("selenium", "axe_core_python") if not _there(name)]
    return f"no {' and '.join(absent)} here: pip install -e .[dev]" if absent else ""


def _there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


@contextmanager
def chromium(downloads: Path) -> Iterator[Chrome]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in QUIET:
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        allowed = {"behavior": "allow", "downloadPath": str(downloads)}
        driver.execute_cdp_cmd("Browser.setDownloadBehavior", allowed)
        yield driver
    finally:
        driver.quit()


def show(driver: Chrome, page: Path, *, width: int = 1280, dark: bool = False) -> None:
    """A page in a window so wide."""
    colours = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    still = {"name": "prefers-reduced-motion", "value": "reduce"}
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [colours, still]})
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get(page.as_uri())


def loaded(driver: Chrome) -> list[str]:
    """What was asked for since the last call, pages themselves and data in them left out."""
    asked = []
    for entry in _log(driver, "performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            request: dict[str, Any] = message["params"]["request"]
            if message["params"].get("type") != "Document":
                asked.append(str(request["url"]))
    return [url for url in asked if not url.startswith(("data:", "blob:"))]


def said(driver: Chrome) -> list[str]:
    """What the console shows since the last call."""
    return [str(entry["message"]) for entry in _log(driver, "browser")]


def _log(driver: Chrome, name: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = driver.get_log(name)  # type: ignore[no-untyped-call]
    return found


@cache
def _axe() -> str:
    spec = importlib.util.find_spec("axe_core_python")
    assert spec
    assert spec.origin
    return (Path(spec.origin).parent / "axe.min.js").read_text(encoding="utf-8")


def faults(driver: Chrome) -> list[str]:
    """What axe-core finds serious or critical in the page that is shown."""
    driver.execute_script(_axe())
    found = driver.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "axe.run().then(done, (error) => done({failed: String(error)}));"
    )
    assert "failed" not in found, found
    return [
        f"{one['id']} ({one['impact']}): {one['nodes'][0]['html'][:200]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]
