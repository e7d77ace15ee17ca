"""How every page is made: one template, one policy, one way to write it."""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from harness.errors import ResultError
from harness.results.atomic_write import whole
from reports.page import KeyFigure, Section

MOST = 1_040_000  # bytes of a page: below 1 MiB
_MOST_RAW = 500_000
_MOST_RAW_ROWS = 100_000  # more never fit, and need not be tried
_FORMULA = r"^([=+\-@\t\r])"
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Raw:
    """What can be downloaded from a page: the CSV file's name, its rows in gzip and base64 ("" when
    they are too many)."""

    name: str
    rows: int
    encoded: str


@dataclass(frozen=True)
class Page:
    """What all pages have; each one's template says the rest.

    kind: what it is, above the title. name: how a browser's tab and a saved table are called. tag:
    said beside each measured key figure. method: what the words mean, in pairs.
    """

    kind: str
    title: str
    name: str
    sections: Sequence[Section]
    keys: Sequence[KeyFigure]
    method: Sequence[tuple[str, str]]
    raw: Raw
    warnings: Sequence[str] = ()
    tag: str = ""


def html(template: str, page: Page, **more: Any) -> str:
    """The page as text; its raw data are left out where they would make it too large."""
    style, script = _asset("report.css"), _asset("report.js")
    ours = {
        "style": Markup(style),  # noqa: S704  our own files, not data
        "script": Markup(script),  # noqa: S704
        "style_hash": _digest(style),
        "script_hash": _digest(script),
    }
    draw = _environment().get_template(template).render
    without = draw(page=page, encoded="", **ours, **more)
    if not page.raw.encoded or len(without.encode(errors="replace")) > MOST - len(page.raw.encoded):
        return without
    return draw(page=page, encoded=page.raw.encoded, **ours, **more)


def write(page: str, out: Path) -> Path:
    """Write a page at once or not at all. Raises ResultError; what was there before then stays."""
    try:
        with whole(out) as partial:
            # facts may carry what is no UTF-8 (a command line); the page must still be written
            partial.write_bytes(page.encode("utf-8", "replace"))
    except OSError as error:
        raise ResultError(
            f"the report cannot be written to {out}: {error.strerror}",
            hint="Name another place, or free space there; the samples are safe.",
        ) from error
    return out


def raw(name: str, frame: pd.DataFrame) -> Raw:
    """A frame as a CSV file to be downloaded."""
    encoded = ""
    if len(frame) <= _MOST_RAW_ROWS:
        packed = gzip.compress(
            _plain(frame).to_csv(index=False).encode("utf-8", "replace"), mtime=0
        )
        encoded = base64.b64encode(packed).decode("ascii")
    return Raw(name, len(frame), encoded if len(encoded) <= _MOST_RAW else "")


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """A spreadsheet takes text that begins so for a formula."""
    kinds = pd.api.types
    guarded: dict[str, pd.Series] = {}
    for name in frame:
        column = frame[name]
        if kinds.is_numeric_dtype(column) or kinds.is_datetime64_any_dtype(column):
            continue
        # texts repeat: a sample's names are few
        if column.drop_duplicates().astype(str).str.match(_FORMULA).any():
            guarded[str(name)] = column.astype(str).str.replace(_FORMULA, r"'\1", regex=True)
    return frame.assign(**guarded)


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _asset(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """For the page's content security policy: this style and this script, and nothing else."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
