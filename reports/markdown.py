"""A comparison as Markdown, for a comment on a pull request."""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.results.compare import Comparison, format_counts
from reports import series, text
from reports.compare import describe, label
from reports.page import EMULATED
from reports.series import Name, Row

MAX_ROWS = 20
MAX_FOLDED_ROWS = 100
MAX_DIFFERENCES = 12
_MAX_CELL = 120  # characters
# characters with a meaning in Markdown or HTML
_SPECIAL = re.compile(r"[\\`*_{}\[\]()<>&#!|~$^\"']")
# text that a forge converts to a link, after it has resolved entities
_LINK = re.compile(r"(@|#|GH-|:(?=//)|www(?=\.))(?=\S)", re.IGNORECASE)


def comment(comparison: Comparison) -> str:
    """A headline, the regressions and improvements, the environment; the other figures folded."""
    rows = comparison.table.to_dict("records")
    pairs = list(zip(series.series_names(comparison.table), rows, strict=True))
    changed = [pair for pair in pairs if pair[1]["verdict"] in ("regressed", "improved")]
    others = [pair for pair in pairs if pair[1]["verdict"] not in ("regressed", "improved")]
    interval = series.interval_column(comparison.table).lower()
    parts = [_headline(comparison), *_sides(comparison)]
    if series.any_emulated([*comparison.base.facts, *comparison.new.facts]):
        parts.append(f"_{EMULATED}_")
    parts += [f"**Caveat:** {escaped(note)}." for note in comparison.notes]
    if changed:
        parts.append(_figures(changed, MAX_ROWS, interval))
    parts.append(_environment(comparison.environment))
    if others:
        summary = f"{text.count(len(others), 'figure')} without a significant change"
        parts.append(f"<details><summary>{summary}</summary>")
        parts.append(_figures(others, MAX_FOLDED_ROWS, interval))
        parts.append("</details>")
    return "\n\n".join(parts) + "\n"


def _headline(comparison: Comparison) -> str:
    counts = comparison.counts
    verdicts = format_counts(counts)
    headline = "No significant change"
    if counts["regressed"]:
        headline = f"{text.count(counts['regressed'], 'figure')} regressed"
    elif counts["improved"]:
        headline = f"{text.count(counts['improved'], 'figure')} improved"
    elif not counts["pass"]:
        headline = "Inconclusive"
    return f"### {headline}\n\n{text.count(sum(counts.values()), 'figure')}: {verdicts}."


def _sides(comparison: Comparison) -> list[str]:
    base, new = comparison.base, comparison.new
    return [
        f"Base: **{escaped(label(base))}** ({escaped(describe(base))})  \n"
        f"New: **{escaped(label(new))}** ({escaped(describe(new))})"
    ]


def _figures(pairs: Sequence[tuple[Name, Row]], max_rows: int, interval: str) -> str:
    lines = [
        f"| figure | verdict | worse by | {interval} | base | new |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name, row in pairs[:max_rows]:
        unit = str(row["unit"])
        flags = f" ({'; '.join(row['flags'])})" if row["flags"] else ""
        cells = (
            *(name.line, row["verdict"] + flags, text.signed(row["effect"])),
            *(text.signed_interval(row["low"], row["high"]), text.quantity(row["base"], unit)),
            text.quantity(row["new"], unit),
        )
        lines.append("| " + " | ".join(map(escaped, cells)) + " |")
    if len(pairs) > max_rows:
        lines += ["", f"{len(pairs) - max_rows:,} more are not shown."]
    return "\n".join(lines)


def _environment(differences: Sequence[tuple[str, str, str]]) -> str:
    if not differences:
        return series.SAME_ENVIRONMENT
    lines = ["| fact that differs | base | new |", "|---|---|---|"]
    lines += ["| " + " | ".join(map(escaped, one)) + " |" for one in differences[:MAX_DIFFERENCES]]
    if len(differences) > MAX_DIFFERENCES:
        lines += ["", f"{len(differences) - MAX_DIFFERENCES} more are not shown."]
    return "\n".join(lines)


def escaped(words: str) -> str:
    """The text in one line, without markup, HTML, links or mentions."""
    line = text.truncated(text.printable(words), _MAX_CELL)
    line = _LINK.sub(lambda match: f"{match[1]}\u200b", line)
    return _SPECIAL.sub(lambda match: f"&#{ord(match[0])};", line)
