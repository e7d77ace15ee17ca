"""All runs of a store as one HTML page, newest first."""

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
from reports import series, session, text
from reports.page import Cell, KeyFigure, Section, Table, failures, numbered, ordered, whole, words
from reports.render import Page, html, raw, write

_PROFILE = re.compile(r"--virt-profile[= ](\w+)")


@dataclass(frozen=True)
class Entry:
    """A run: its file, what is known of it, its samples."""

    file: Path
    facts: RunFacts
    samples: int

    @property
    def outcomes(self) -> Mapping[str, int]:
        told = self.facts.get("outcomes", {})
        return {str(name): int(count) for name, count in told.items()}

    @property
    def failed(self) -> int:
        return sum(failures(self.outcomes).values())

    @property
    def profile(self) -> str:
        found = _PROFILE.search(str(self.facts.get("command", "")))
        return str(self.facts.get("profile") or (found[1] if found else ""))


def render(store: Path, out: Path) -> Path:
    """Write the list of a store's runs, one file below 1 MiB. What cannot be read is listed with
    the reason. Raises ResultError when the page cannot be written; what was there before then
    stays."""
    entries, broken = read(store)
    return write(to_html(store, out, entries, broken), out)


def read(store: Path) -> tuple[list[Entry], list[tuple[Path, str]]]:
    """The runs, newest first, and the files that cannot be read with the reason."""
    entries: list[Entry] = []
    broken: list[tuple[Path, str]] = []
    for file in reversed(runs(store)):
        try:
            one = Entry(file, facts_of(file), pq.read_metadata(file).num_rows)
            _ = one.outcomes  # what is no number is no outcome
        except ResultError as error:
            broken.append((file, error.cause))
        except (pa.ArrowException, OSError, LookupError) as error:
            broken.append((file, str(error)))
        except (ValueError, TypeError, AttributeError) as error:
            broken.append((file, f"its facts are not as they should be: {error}"))
        else:
            entries.append(one)
    return entries, broken


def to_html(
    store: Path, out: Path, entries: Sequence[Entry], broken: Sequence[tuple[Path, str]]
) -> str:
    page = Page(
        kind="Hypervisor runs",
        title=text.count(len(entries), "run"),
        name="index",
        sections=[listed(store, out, entries), *unreadable(store, broken)],
        keys=keys(entries, broken),
        method=(),
        raw=raw("runs", _frame(entries)),
        warnings=_warnings(broken),
    )
    beside = [(name, _link(store / f"{name}.html", out)) for name in ("trend", "compare")]
    links = [(f"The {name} page", href) for name, href in beside if href]
    return html("index.html", page, store=store.name or str(store), links=links)


def _warnings(broken: Sequence[tuple[Path, str]]) -> list[str]:
    if not broken:
        return []
    return [f"{text.count(len(broken), 'file')} cannot be read: see Unreadable files."]


def keys(entries: Sequence[Entry], broken: Sequence[tuple[Path, str]]) -> list[KeyFigure]:
    if not entries:
        return []
    hosts = {str(one.facts.get("hostname") or one.facts.get("host", "")) for one in entries}
    newest = entries[0]
    failed = sum(1 for one in entries if one.failed)
    cut = sum(1 for one in entries if not one.facts.get("complete", True))
    samples = sum(one.samples for one in entries)
    told = [
        KeyFigure(
            "Newest run",
            text.date(str(newest.facts.get("start", ""))) or text.NONE,
            f"{newest.facts.get('hypervisor', 'unknown')} on "
            f"{newest.facts.get('host', 'an unknown host')}: {_outcomes(newest) or 'no outcomes'}",
        ),
        KeyFigure("Runs", f"{len(entries):,}", f"of {text.count(len(hosts), 'host')}"),
        KeyFigure("Samples", f"{samples:,}", "in all runs, each kept"),
        KeyFigure(
            "With failures", f"{failed:,}", "runs in which a test failed", style=_bad(failed)
        ),
    ]
    if cut:
        told.append(KeyFigure("Incomplete", f"{cut:,}", "runs that ended before their time"))
    if broken:
        many = f"{len(broken):,}"
        told.append(KeyFigure("Unreadable", many, "files that hold no run", style="bad"))
    return told


def _bad(count: int) -> str:
    return "bad" if count else ""


def _outcomes(one: Entry) -> str:
    return ", ".join(f"{n:,} {name}" for name, n in ordered(one.outcomes).items() if n)


def listed(store: Path, out: Path, entries: Sequence[Entry]) -> Section:
    section = Section("runs", "Runs")
    if not entries:
        section.missing = f"{store.name} holds no runs: run a suite with --virt-results first."
        return section
    head = numbered(
        *("Run", "Began", "Hypervisor", "Host", "Backend", "Profile", "Commit", "Outcomes"),
        "#Samples",
    )
    rows = [_row(store, out, one) for one in entries]
    section.tables.append(Table("All runs, newest first", head, rows))
    if not any(row[0].href for row in rows):
        section.notes.append("No run's report lies beside these runs.")
    return section


def _row(store: Path, out: Path, one: Entry) -> list[Cell]:
    facts = one.facts
    start = str(facts.get("start", ""))
    flags = () if facts.get("complete", True) else ("incomplete: ended before its time",)
    host = str(facts.get("host", ""))
    name = str(facts.get("hostname", ""))
    place = host if host in ("", name) or not name else f"{host}, {name}"
    return [
        Cell(one.file.stem, flags=flags, href=_report(store, out, one.file)),
        Cell(session.when(start), start),
        words(str(facts.get("hypervisor", ""))),
        words(place),
        words(str(facts.get("backend", ""))),
        words(one.profile),
        words(series.short_commit(str(facts.get("commit", "")))),
        words(_outcomes(one), flagged=bool(one.failed)),
        whole(one.samples),
    ]


def _report(store: Path, out: Path, file: Path) -> str:
    """Where the run's page is: in the run's folder, or beside its samples."""
    ways = (store / file.stem / "report.html", file.with_suffix(".html"))
    return next(filter(None, (_link(way, out) for way in ways)), "")


def _link(page: Path, out: Path) -> str:
    """From one page to another, "" where there is none; no name is taken for more than a place."""
    if not page.is_file():
        return ""
    return "./" + quote(os.path.relpath(page.resolve(), out.parent.resolve()))


def unreadable(store: Path, broken: Sequence[tuple[Path, str]]) -> list[Section]:
    if not broken:
        return []
    rows = [[words(os.path.relpath(file, store)), words(reason)] for file, reason in broken]
    table = Table("Files that hold no run, and why", numbered("File", "Reason"), rows)
    return [Section("unreadable", "Unreadable files", tables=[table])]


def _frame(entries: Sequence[Entry]) -> pd.DataFrame:
    names = (
        *("start", "end", "hypervisor", "host", "hostname", "backend", "cpu_model", "kernel"),
        *("commit", "image", "fingerprint", "exit_status", "complete"),
    )
    return pd.DataFrame(
        [
            {
                "run": one.file.stem,
                **{name: str(one.facts.get(name, "")) for name in names},
                "profile": one.profile,
                "outcomes": _outcomes(one),
                "samples": one.samples,
            }
            for one in entries
        ],
    )
