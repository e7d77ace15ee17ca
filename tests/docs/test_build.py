"""The manual builds without a warning, and every link in it and in the files beside it works."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


class Page(HTMLParser):
    """One HTML page: its anchors, and the addresses that it links to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := values.get(name))}
        address = values.get("href") if tag in {"a", "link"} else values.get("src")
        if address:
            self.links.append(address)


def build(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """Build the manual as ./dev docs does."""
    return subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(source), str(target)],
        capture_output=True,
        text=True,
        check=False,
    )


def broken_links(folder: Path) -> list[str]:
    """The links of a built manual that lead to no file or to no anchor."""
    pages = {path: Page(path) for path in folder.rglob("*.html")}
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            missing = not target.exists() or (
                target in pages and anchor not in {"", *pages[target].anchors}
            )
            if missing:
                broken.append(f"{path.name}: {link}")
    return broken


def anchors(markdown: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a Markdown text."""
    text = re.sub(r"^```.*?^```$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture(scope="module")
def manual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("manual")
    done = build(DOCS, folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_links_of_manual_work(manual: Path) -> None:
    assert broken_links(manual) == []


def test_manual_loads_nothing_from_network(manual: Path) -> None:
    for path in manual.glob("*.html"):
        loaded = re.findall(r'<(?:script|img)[^>]*src="(\w+:)?//', path.read_text())
        loaded += re.findall(r'<link[^>]*href="(\w+:)?//', path.read_text())
        assert loaded == [], path.name


def test_build_reports_broken_links(tmp_path: Path) -> None:
    source = tmp_path / "docs"
    source.mkdir()
    shutil.copy(DOCS / "conf.py", source)
    links = ["nowhere.md", "index.md#nowhere", "#nowhere"]
    lines = [f"- [link]({link})" for link in links]
    (source / "index.md").write_text("\n".join(["# Title", "", *lines, ""]))
    done = build(source, tmp_path / "html")
    assert done.returncode != 0
    assert len(re.findall(r"index\.md:[345]: WARNING", done.stderr)) == len(links)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_top_level_files_work(name: str) -> None:
    text = (ROOT / name).read_text()
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        parts = urlsplit(link)
        if parts.scheme:
            continue
        target = ROOT / parts.path if parts.path else ROOT / name
        assert target.exists(), link
        assert not parts.fragment or parts.fragment in anchors(target.read_text()), link
