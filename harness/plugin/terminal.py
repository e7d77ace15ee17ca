"""What the plugin prints: sections of failed tests, the summary, and the last lines."""

# ruff: noqa: PLC0415 - every pytest run loads this module, so heavy imports are inside functions
from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

import pytest

from harness.plugin.session import KEY, Session, session_of

if TYPE_CHECKING:
    from harness.errors import HarnessError
    from harness.guest.base import BaseGuest

CONSOLE_LINES = 40
MAX_GUESTS = 4  # of a failed test, that have sections of their own


def all_sections(guests: Sequence[BaseGuest], named: str = "") -> list[tuple[str, str]]:
    """Titles and texts on a failed test's guests. Of many guests only some have their own: the one
    that the error names, those that ended, and the first ones.

    named: the guest in the error, or "".
    """
    ranked = sorted(guests, key=lambda one: (one.name != named, not one.ended.is_set()))
    shown, others = ranked[:MAX_GUESTS], ranked[MAX_GUESTS:]
    found = [section for guest in guests if guest in shown for section in sections(guest)]
    if others:
        from harness.guest.base import describe_end

        lines = [f"{guest.name}: {describe_end(guest.end).splitlines()[0]}" for guest in others]
        found.append((f"{len(others)} more guests", "\n".join(lines)))
    return found


def sections(guest: BaseGuest) -> list[tuple[str, str]]:
    """Titles and texts on a guest for a failed test's report."""
    from harness.guest.base import describe_end

    console = guest.console.tail(CONSOLE_LINES)
    where = f" (all of it: {guest.console.path})" if guest.console.path else ""
    return [
        (
            f"guest {guest.name}: last {len(console)} console lines{where}",
            "\n".join(console) or "(the console is empty)",
        ),
        (f"guest {guest.name}: boot timeline", "\n".join(guest.timeline.lines())),
        (f"guest {guest.name}: end", describe_end(guest.end)),
    ]


def shorten_end(error: HarnessError, guest: BaseGuest) -> None:
    """Reduce the end's detail in an error to its first line: the guest's section has all of it.

    The detail may be a VMM's whole usage message.
    """
    detail = guest.end.detail if guest.end else ""
    first, _, more = detail.partition("\n")
    if more:
        error.cause = error.cause.replace(detail, f"{first} ...")


def shorten(report: pytest.TestReport, error: HarnessError) -> None:
    """Reduce the error's line in pytest's short summary to the first line of its cause.

    pytest cuts that line at the terminal's width, but not in CI, where it prints all lines.
    """
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None and error.cause:
        crash.message = error.cause.splitlines()[0]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the session's report, if it has any line."""
    parts = _summary(session_of(terminalreporter.config))
    if not any(lines for _, lines, _ in parts):
        return
    terminalreporter.section("hypervisors and guests")
    for title, lines, is_error in parts:
        if not lines:
            continue
        if title:
            terminalreporter.write_line(f"{title}:", red=is_error, bold=is_error)
        for line in lines:
            is_red = is_error and not title
            terminalreporter.write_line(f"  {line}" if title else line, red=is_red, bold=is_red)


def _summary(session: Session) -> list[tuple[str, list[str], bool]]:
    """For each part of the summary: its title, its lines, whether they are errors."""
    from reports import text

    report = session.report
    figures = [line for outputs in report.outputs for line in outputs["figures"]]
    problems = [line for outputs in report.outputs for line in outputs["problems"]]
    stages = {name: took for name, took in session.progress.stages.items() if took >= 0.05}
    durations = ", ".join(f"{name} {took:.1f} s" for name, took in stages.items())
    return [
        ("", [report.header] if report.header else [], False),
        ("", figures, False),
        ("usage error", report.usage_errors, True),
        ("kept until the end", [guest.name for guest in session.guests.kept], False),
        ("notes", text.merged(report.notes), False),
        *(("baseline", one["compared"], one["regressed"] > 0) for one in report.outputs),
        ("", [f"gate failed: {report.gate_failure}"] if report.gate_failure else [], True),
        ("left behind", report.leaks, True),
        ("could not be written", problems, True),
        ("stages", [durations] if durations else [], False),
    ]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, object, object]:
    """Print the paths of the outputs after pytest's own last line."""
    result = yield
    ours = session.config.stash.get(KEY, None)
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if ours is not None and terminal is not None:
        for outputs in ours.report.outputs:
            for name in ("report", "consolidation", "comparison", "samples"):
                if outputs[name]:
                    terminal.write_line(f"{name}: {outputs[name]}")
    return result
