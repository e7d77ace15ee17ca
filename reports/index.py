"""The page that lists all runs of a store, newest first."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import ResultError
from harness.results.schema import RunFacts
from harness.results.store import facts_of, runs
from reports import series, session_sections, text
from reports.page import (
    Cell,
    KeyFigure,
    Section,
    Table,
    columns,
    count_cell,
    failed_outcomes,
    ordered_outcomes,
    text_cell,
)
from reports.render import Page, html, raw, write

_PROFILE = re.compile(r"--virt-profile[= ](\w+)")


@dataclass(frozen=True)
class Entry:
    """A run: its file, its facts, the number of its samples."""

    file: Path
    facts: RunFacts
    samples: int

    @property
    def outcomes(self) -> Mapping[str, int]:
        outcomes = self.facts.get("outcomes", {})
        return {str(name): int(count) for name, count in outcomes.items()}

    @property
    def failed(self) -> int:
        return sum(failed_outcomes(self.outcomes).values())

    @property
    def profile(self) -> str:
        match = _PROFILE.search(str(self.facts.get("command", "")))
        return str(self.facts.get("profile") or (match[1] if match else ""))


def render(store: Path, out: Path) -> Path:
    """Write the page, one file below 1 MiB. Unreadable files are listed with the reason.

    Raises ResultError when the page cannot be written; an existing file then stays as it is.
    """
    entries, broken = read(store)
    return write(to_html(store, out, entries, broken), out)


def read(store: Path) -> tuple[list[Entry], list[tuple[Path, str]]]:
    """The runs, newest first, and the unreadable files with the reason."""
    entries: list[Entry] = []
    broken: list[tuple[Path, str]] = []
    for file in reversed(runs(store)):
        try:
            entry = Entry(file, facts_of(file), pq.read_metadata(file).num_rows)
            _ = entry.outcomes  # raises for a count that is no number
        except ResultError as error:
            broken.append((file, error.cause))
        except (pa.ArrowException, OSError, LookupError) as error:
            broken.append((file, str(error)))
        except (ValueError, TypeError, AttributeError) as error:
            broken.append((file, f"its facts are invalid: {error}"))
        else:
            entries.append(entry)
    return entries, broken


def to_html(
    store: Path, out: Path, entries: Sequence[Entry], broken: Sequence[tuple[Path, str]]
) -> str:
    page = Page(
        kind="Hypervisor runs",
        title=text.count(len(entries), "run"),
        name="index",
        sections=[runs_section(store, out, entries), *unreadable_sections(store, broken)],
        keys=key_figures(entries, broken),
        method=(),
        raw=raw("runs", _frame(entries)),
        warnings=_warnings(broken),
    )
    pages = [(name, _link(store / f"{name}.html", out)) for name in ("trend", "compare")]
    links = [(f"{name.capitalize()} page", href) for name, href in pages if href]
    return html("index.html", page, store=store.name or str(store), links=links)


def _warnings(broken: Sequence[tuple[Path, str]]) -> list[str]:
    if not broken:
        return []
    return [f"{text.count(len(broken), 'file')} cannot be read: see Unreadable files."]


def key_figures(entries: Sequence[Entry], broken: Sequence[tuple[Path, str]]) -> list[KeyFigure]:
    if not entries:
        return []
    hosts = {str(entry.facts.get("hostname") or entry.facts.get("host", "")) for entry in entries}
    newest = entries[0]
    failed = sum(1 for entry in entries if entry.failed)
    incomplete = sum(1 for entry in entries if not entry.facts.get("complete", True))
    samples = sum(entry.samples for entry in entries)
    answers = [
        KeyFigure(
            "Newest run",
            text.date(str(newest.facts.get("start", ""))) or text.NONE,
            f"{newest.facts.get('hypervisor', 'unknown')} on "
            f"{newest.facts.get('host', 'an unknown host')}: {_outcomes(newest) or 'no outcomes'}",
        ),
        KeyFigure("Runs", f"{len(entries):,}", f"of {text.count(len(hosts), 'host')}"),
        KeyFigure("Samples", f"{samples:,}", "in all runs"),
        KeyFigure("With failures", f"{failed:,}", "runs with a failed test", style=_bad(failed)),
    ]
    if incomplete:
        answers.append(
            KeyFigure("Incomplete", f"{incomplete:,}", "runs whose session did not end normally")
        )
    if broken:
        count = f"{len(broken):,}"
        answers.append(
            KeyFigure("Unreadable", count, "files that are no readable run", style="bad")
        )
    return answers


def _bad(count: int) -> str:
    return "bad" if count else ""


def _outcomes(entry: Entry) -> str:
    return ", ".join(f"{n:,} {name}" for name, n in ordered_outcomes(entry.outcomes).items() if n)


def runs_section(store: Path, out: Path, entries: Sequence[Entry]) -> Section:
    section = Section("runs", "Runs")
    if not entries:
        section.placeholder = f"{store.name} has no runs. Run a suite with --virt-results first."
        return section
    head = columns(
        *("Run", "Start", "Hypervisor", "Host", "Backend", "Profile", "Commit", "Outcomes"),
        "#Samples",
    )
    rows = [_row(store, out, entry) for entry in entries]
    section.tables.append(Table("All runs, newest first", head, rows))
    if not any(row[0].href for row in rows):
        section.notes.append("The folder of these runs contains no run reports.")
    return section


def _row(store: Path, out: Path, entry: Entry) -> list[Cell]:
    facts = entry.facts
    start = str(facts.get("start", ""))
    flags = () if facts.get("complete", True) else ("incomplete: its session did not end normally",)
    host = str(facts.get("host", ""))
    name = str(facts.get("hostname", ""))
    location = host if host in ("", name) or not name else f"{host}, {name}"
    return [
        Cell(entry.file.stem, flags=flags, href=_report(store, out, entry.file)),
        Cell(session_sections.format_time(start), start),
        text_cell(str(facts.get("hypervisor", ""))),
        text_cell(location),
        text_cell(str(facts.get("backend", ""))),
        text_cell(entry.profile),
        text_cell(series.short_commit(str(facts.get("commit", "")))),
        text_cell(_outcomes(entry), flagged=bool(entry.failed)),
        count_cell(entry.samples),
    ]


def _report(store: Path, out: Path, file: Path) -> str:
    """The link to the run's page: in the run's folder, or in the folder of its samples."""
    pages = (store / file.stem / "report.html", file.with_suffix(".html"))
    return next(filter(None, (_link(page, out) for page in pages)), "")


def _link(page: Path, out: Path) -> str:
    """The relative link from one page to another, quoted; "" when the page does not exist."""
    if not page.is_file():
        return ""
    return "./" + quote(os.path.relpath(page.resolve(), out.parent.resolve()))


def unreadable_sections(store: Path, broken: Sequence[tuple[Path, str]]) -> list[Section]:
    if not broken:
        return []
    rows = [[text_cell(os.path.relpath(file, store)), text_cell(reason)] for file, reason in broken]
    table = Table(
        "Files that are no readable run, with the reason", columns("File", "Reason"), rows
    )
    return [Section("unreadable", "Unreadable files", tables=[table])]


def _frame(entries: Sequence[Entry]) -> pd.DataFrame:
    names = (
        *("start", "end", "hypervisor", "host", "hostname", "backend", "cpu_model", "kernel"),
        *("commit", "image", "fingerprint", "exit_status", "complete"),
    )
    return pd.DataFrame(
        [
            {
                "run": entry.file.stem,
                **{name: str(entry.facts.get(name, "")) for name in names},
                "profile": entry.profile,
                "outcomes": _outcomes(entry),
                "samples": entry.samples,
            }
            for entry in entries
        ],
    )
