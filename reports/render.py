"""Rendering of all pages: the templates, the content security policy, the output file."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from harness.errors import ResultError
from harness.results.atomic_write import atomic_write
from harness.results.csv_guard import FORMULA_START, guard_formulas
from reports.page import KeyFigure, Section

MAX_BYTES = 1_040_000  # of a page: below 1 MiB
_MAX_RAW_BYTES = 500_000
_MAX_RAW_ROWS = 100_000  # more rows never fit
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Raw:
    """Data for download: name of the CSV file, number of rows, and the rows as gzip in base64.

    encoded: "" when there are too many rows.
    """

    name: str
    rows: int
    encoded: str


@dataclass(frozen=True)
class Page:
    """The content that all pages have. Each template takes further values.

    kind: type of the page, above the title. name: for the browser tab and saved tables. tag: shown
    with each measured key figure. method: pairs of a term and its explanation.
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
    """The page as text. The raw data are omitted when the page would be too large."""
    style, script = _asset("report.css"), _script()
    assets = {
        "style": Markup(style),  # noqa: S704  our own files, not data
        "script": Markup(script),  # noqa: S704
        "style_hash": _digest(style),
        "script_hash": _digest(script),
    }
    draw = _environment().get_template(template).render
    without_raw = draw(page=page, encoded="", **assets, **more)
    size = len(without_raw.encode(errors="replace")) + len(page.raw.encoded)
    if not page.raw.encoded or size > MAX_BYTES:
        return without_raw
    return draw(page=page, encoded=page.raw.encoded, **assets, **more)


def write(page: str, out: Path) -> Path:
    """Write a page atomically. Raises ResultError; an existing file then stays as it is."""
    try:
        with atomic_write(out) as partial:
            # A fact may not be valid UTF-8 (a command line); the page is written all the same.
            partial.write_bytes(page.encode("utf-8", "replace"))
    except OSError as error:
        raise ResultError(
            f"the report cannot be written to {out}: {error.strerror}",
            hint="name another file, or free space there; the samples are stored",
        ) from error
    return out


def raw(name: str, frame: pd.DataFrame) -> Raw:
    """A frame as a CSV file for download."""
    encoded = ""
    if len(frame) <= _MAX_RAW_ROWS:
        csv = guard_formulas(frame).to_csv(index=False).encode("utf-8", "replace")
        encoded = base64.b64encode(gzip.compress(csv, mtime=0)).decode("ascii")
    return Raw(name, len(frame), encoded if len(encoded) <= _MAX_RAW_BYTES else "")


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


def _script() -> str:
    """The script, with the same pattern of formulas as guard_formulas."""
    return _asset("report.js").replace('"FORMULA_START"', json.dumps(FORMULA_START))


def _digest(text: str) -> str:
    """The hash of a style or script for the content security policy, which allows nothing else."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
