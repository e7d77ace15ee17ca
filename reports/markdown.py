"""A comparison as Markdown: a comment below a proposed change."""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.results.compare import VERDICTS, Comparison
from reports import series, text
from reports.compare import about, label
from reports.page import EMULATED
from reports.series import Name, Row

MOST_ROWS = 20
MOST_REST = 100
MOST_DIFFERENCES = 12
_CELL = 120
# what Markdown or HTML could take for more than text
_SPECIAL = re.compile(r"[\\`*_{}\[\]()<>&#!|~$^\"']")
# what a forge makes a link of: it looks at the text that is left when entities are read
_LINK = re.compile(r"(@|#|GH-|:(?=//)|www(?=\.))(?=\S)", re.IGNORECASE)


def comment(comparison: Comparison) -> str:
    """A headline, what regressed or improved, what differs in the environment; the rest folded."""
    rows = comparison.table.to_dict("records")
    pairs = list(zip(series.names(comparison.table), rows, strict=True))
    news = [pair for pair in pairs if pair[1]["verdict"] in ("regressed", "improved")]
    rest = [pair for pair in pairs if pair[1]["verdict"] not in ("regressed", "improved")]
    parts = [_headline(comparison), *_sides(comparison)]
    if series.emulated([*comparison.base.facts, *comparison.new.facts]):
        parts.append(f"_{EMULATED}_")
    parts += [f"**Doubtful:** {escaped(note)}." for note in comparison.notes]
    if news:
        parts.append(_figures(news, MOST_ROWS))
    parts.append(_environment(comparison.environment))
    if rest:
        said = f"{text.count(len(rest), 'figure')} without a shown change"
        parts.append(f"<details><summary>{said}</summary>")
        parts.append(_figures(rest, MOST_REST))
        parts.append("</details>")
    return "\n\n".join(parts) + "\n"


def _headline(comparison: Comparison) -> str:
    counts = comparison.counts
    said = ", ".join(f"{counts[verdict]:,} {verdict}" for verdict in VERDICTS)
    word = "No change shown"
    if counts["regressed"]:
        word = f"{text.count(counts['regressed'], 'figure')} regressed"
    elif counts["improved"]:
        word = f"{text.count(counts['improved'], 'figure')} improved"
    elif not counts["pass"]:
        word = "Inconclusive"
    return f"### {word}\n\n{text.count(sum(counts.values()), 'figure')}: {said}."


def _sides(comparison: Comparison) -> list[str]:
    base, new = comparison.base, comparison.new
    return [
        f"Base: **{escaped(label(base))}** ({escaped(about(base))})  \n"
        f"New: **{escaped(label(new))}** ({escaped(about(new))})"
    ]


def _figures(pairs: Sequence[tuple[Name, Row]], most: int) -> str:
    lines = [
        "| figure | verdict | worse by | 95 % | base | new |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name, row in pairs[:most]:
        unit = str(row["unit"])
        flags = f" ({'; '.join(row['flags'])})" if row["flags"] else ""
        cells = (
            *(name.line, row["verdict"] + flags, text.signed(row["effect"])),
            *(text.shares(row["low"], row["high"]), text.quantity(row["base"], unit)),
            text.quantity(row["new"], unit),
        )
        lines.append("| " + " | ".join(map(escaped, cells)) + " |")
    if len(pairs) > most:
        lines += ["", f"{text.count(len(pairs) - most, 'more', 'more')} not shown."]
    return "\n".join(lines)


def _environment(found: Sequence[tuple[str, str, str]]) -> str:
    if not found:
        return "Nothing that is known of the hosts differs."
    lines = ["| what differs | base | new |", "|---|---|---|"]
    lines += ["| " + " | ".join(map(escaped, one)) + " |" for one in found[:MOST_DIFFERENCES]]
    if len(found) > MOST_DIFFERENCES:
        lines += ["", f"{len(found) - MOST_DIFFERENCES} more not shown."]
    return "\n".join(lines)


def escaped(words: str) -> str:
    """Text as text, in one line: no markup, no HTML, no link, no mention of anybody."""
    line = text.short(text.plain(words), _CELL)
    line = _LINK.sub(lambda match: f"{match[1]}\u200b", line)
    return _SPECIAL.sub(lambda match: f"&#{ord(match[0])};", line)
