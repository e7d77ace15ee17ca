"""Comparisons and histories as Markdown and as terminal text."""

from __future__ import annotations

import io
import re

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from reports import markdown, terminal
from tests.reports import comparisons, histories
from tests.reports.checks import HOSTILE

ODD = "a|b`c\n| d | @someone #12 https://x.y <b>*_[z](u) \x1b[31m\u202e"
COUNTS = "3 regressed, 2 improved, 1 inconclusive, 20 pass, 1 not compared"


def test_comment_is_short() -> None:
    comment = markdown.comment(comparisons.make_comparison())
    lines = comment.splitlines()
    assert lines[0] == "### 3 figures regressed"
    assert lines[2] == f"27 figures: {COUNTS}."
    row = "| io.regressed.0 randread 4k, depth 0 on kvm | regressed | +50 % | +46 to +55 % |"
    assert f"{row} 100 µs | 150 µs |" in lines
    assert "| kernel | 6.1.0-1 | 6.1.0-2 |" in lines
    folded = comment[comment.index("<details>") :]
    assert "<summary>22 figures without a significant change</summary>" in folded
    assert "io.regressed" not in folded
    assert comment.endswith("</details>\n")


def test_comment_counts_hidden_rows() -> None:
    comment = markdown.comment(comparisons.make_comparison({"regressed": 30, "pass": 500}))
    assert comment.count("| regressed |") == 20
    assert "10 more are not shown." in comment
    assert "400 more are not shown." in comment
    assert len(comment) < 65_536, "the limit of a forge"
    assert markdown.comment(comparisons.make_comparison({"pass": 1})).startswith(
        "### No significant change"
    )
    assert markdown.comment(comparisons.make_comparison({"improved": 1})).startswith(
        "### 1 figure improved"
    )


def test_comment_escapes_everything() -> None:
    for hostile in (ODD, HOSTILE):
        comment = markdown.comment(comparisons.make_comparison(text=hostile))
        assert set(re.findall(r"<[^>]*>", comment)) <= {
            *("<details>", "</details>", "<summary>", "</summary>"),
            "<summary>22 figures without a significant change</summary>",
        }
        for line in comment.splitlines():
            if line.startswith("|"):
                assert line.count("|") in (4, 7), line
        assert not re.search(r"[@#][\w]", re.sub(r"&#\d+;", "", comment))
        assert "://" not in comment
        assert "\x1b" not in comment


@given(st.text())
def test_escaped_text_is_one_line_without_markup(words: str) -> None:
    comment = markdown.escaped(words)
    assert "\n" not in comment
    assert not set("|`<>*_[]\\") & set(re.sub(r"&#\d+;", "", comment))


def printed(*, tty: bool = False) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=80, force_terminal=tty, no_color=True, highlight=False), out


def test_comparison_on_a_terminal() -> None:
    console, out = printed()
    terminal.print_comparison(console, comparisons.make_comparison())
    output = out.getvalue()
    assert "\x1b" not in output
    assert max(map(len, output.splitlines())) <= 80
    assert "base: previous (run 20260102T030405Z-aaaaaa" in output
    assert "differs: kernel: 6.1.0-1 -> 6.1.0-2" in output
    assert re.search(r"io\.regressed\.0 +regressed +\+50 % +100 µs", output)
    assert "not measured in the new run" in output
    assert "io.pass" not in output
    assert output.rstrip().endswith(COUNTS)


def test_history_on_a_terminal() -> None:
    console, out = printed()
    terminal.print_history(console, histories.make_history())
    output = out.getvalue()
    assert max(map(len, output.splitlines())) <= 80
    assert "id 00000004" in output
    assert "1 regressed, 1 improved, 1 inconclusive, 5 pass" in output
    assert "acknowledged: 00000000: a new kernel" in output


def test_terminal_output_has_no_control_characters() -> None:
    console, out = printed()
    hostile = "[red]\x1b[2J\x07\u202e" + ODD
    terminal.print_comparison(console, comparisons.make_comparison(text=hostile))
    terminal.print_history(console, histories.make_history(metric=hostile, cpu_model=hostile))
    output = out.getvalue()
    assert not {"\x1b", "\x07", "\u202e"} & set(output)
    assert "[red]" in output


def test_hidden_rows_are_counted() -> None:
    console, out = printed()
    terminal.print_comparison(console, comparisons.make_comparison({"regressed": 40}))
    assert "(10 of them not shown)" in out.getvalue()
