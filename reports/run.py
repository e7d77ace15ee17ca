"""One run as one HTML page that needs nothing but itself: no network, no other file."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from harness.errors import ResultError
from harness.results.schema import COLUMNS, RunFacts
from harness.results.store import runs
from reports import beside, measured, session
from reports.key import key_figures
from reports.page import Run

EMULATED = (
    "Emulated host: every figure here was measured on a CPU emulated in software; absolute times "
    "say nothing about hardware."
)
_TEMPLATES = Path(__file__).parent / "templates"
_MOST_RAW = 500_000


def render(parquet: Path, out: Path) -> Path:
    """Write the report of a run's Parquet file (or of a store's newest run) to `out`.

    The page is one file below 1 MiB. Raises ResultError when the run cannot be read or the page
    cannot be written; a page that was there before then stays.
    """
    page = to_html(Run.read(parquet), parquet)
    partial = out.with_name(out.name + ".tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # facts may carry what is no UTF-8 (a command line); the page must still be written
        partial.write_bytes(page.encode("utf-8", "replace"))
        partial.replace(out)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise ResultError(
            f"the report cannot be written to {out}: {error.strerror}",
            mend="Name another place, or free space there; the samples are safe.",
        ) from error
    return out


def to_html(run: Run, source: Path) -> str:
    """The page as text. source: named on the page as the place of the raw samples."""
    facts = run.facts
    sections = [
        beside.section(run),
        session.environment(run),
        measured.boot(run),
        measured.exits(run),
        measured.io(run),
        session.utilization(run),
        session.outcomes(run),
        session.stages(run),
    ]
    style, script = _asset("report.css"), _asset("report.js")
    return (
        _environment()
        .get_template("run.html")
        .render(
            facts=facts,
            title=_title(facts),
            when=session.when(facts.get("start", "")),
            warnings=_warnings(run),
            emulated=run.emulated,
            keys=key_figures(run),
            sections=sections,
            method=session.METHOD,
            raw=_raw(run),
            samples=len(run.frame),
            source=source.name,
            style=Markup(style),  # noqa: S704  our own files, not data
            script=Markup(script),  # noqa: S704
            style_hash=_digest(style),
            script_hash=_digest(script),
        )
    )


def page(run: Path, out: Path | None = None) -> Path:
    """The page of a run's Parquet file, or of a store's newest run; by default beside it.

    Raises ResultError."""
    if run.is_dir() and (found := runs(run)):
        run = found[-1]
    return render(run, out or run.with_suffix(".html"))


def _title(facts: RunFacts) -> str:
    host = facts.get("host", "an unknown host")
    names = {"emulated": "an emulated host", "local": facts.get("hostname") or "this host"}
    return f"{facts.get('hypervisor', 'unknown')} on {names.get(host, host)}"


def _warnings(run: Run) -> list[str]:
    said = [EMULATED] if run.emulated else []
    if not run.facts.get("complete", True):
        lost = run.facts.get("lost_lines", 0)
        said.append(
            "Incomplete run: its session ended before its time; these are the samples it left"
            + (f", {lost} unreadable" if lost else "")
            + "."
        )
    counts = run.facts.get("outcomes", {})
    bad = counts.get("failed", 0) + counts.get("error", 0) + counts.get("errors", 0)
    if bad:
        said.append(f"{bad} of {sum(counts.values())} tests failed: see Outcomes.")
    if run.frame.empty:
        said.append("This run holds no samples.")
    return said


def _raw(run: Run) -> str:
    """The samples as gzip-compressed CSV in base64; empty when too much for a page."""
    text = run.frame[list(COLUMNS)].to_csv(index=False)
    packed = gzip.compress(text.encode("utf-8"), mtime=0)
    encoded = base64.b64encode(packed).decode("ascii")
    return encoded if len(encoded) <= _MOST_RAW else ""


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _asset(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """For the page's content security policy: this style and this script, and nothing else."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
