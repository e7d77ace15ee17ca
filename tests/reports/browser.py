"""Headless Chromium from Debian, driven by chromedriver, for tests of keys and widths."""

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
    """The missing programs or packages, with the command that installs them; "" for none."""
    if not CHROMIUM:
        return "chromium is not installed: apt-get install chromium"
    if not DRIVER:
        return "chromedriver is not installed: apt-get install chromium-driver"
    absent = [name for name in ("selenium", "axe_core_python") if not _there(name)]
    return f"{' and '.join(absent)} not installed: pip install -e .[dev]" if absent else ""


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
    """Open a page in a window of the given width."""
    colours = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    still = {"name": "prefers-reduced-motion", "value": "reduce"}
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [colours, still]})
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get(page.as_uri())


def requested_urls(driver: Chrome) -> list[str]:
    """URLs that were requested since the last call, without pages and data URLs."""
    urls = []
    for entry in _log(driver, "performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            request: dict[str, Any] = message["params"]["request"]
            if message["params"].get("type") != "Document":
                urls.append(str(request["url"]))
    return [url for url in urls if not url.startswith(("data:", "blob:"))]


def console_messages(driver: Chrome) -> list[str]:
    """Console messages since the last call."""
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


def accessibility_findings(driver: Chrome) -> list[str]:
    """Serious and critical findings of axe-core in the open page."""
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
