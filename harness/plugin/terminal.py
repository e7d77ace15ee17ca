"""What people read: the header, sections of failed tests, the summary, the last lines."""

# ruff: noqa: PLC0415 - every pytest run loads the plugin: heavy imports wait for a test in need
from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

from harness.plugin.session import KEY, Session, session_of

if TYPE_CHECKING:
    from harness.errors import HarnessError
    from harness.guest.base import BaseGuest

CONSOLE_LINES = 40


def pytest_report_header(config: pytest.Config) -> str:
    """What will be used; the facts of the host follow when it is started."""
    chosen = session_of(config).settings
    host = f"host {chosen.host}"
    if chosen.host == "auto":
        host += " (chosen when the first test needs it)"
    return (
        f"hypervisor: {chosen.hypervisor} on {host}; guests of {chosen.vcpus} vCPU, "
        f"{chosen.memory} MiB"
    )


def sections(guest: BaseGuest) -> list[tuple[str, str]]:
    """Titles and texts for a failed test's report."""
    from harness.guest.base import describe_end

    console = guest.console.tail(CONSOLE_LINES)
    where = f" (all of it: {guest.console.path})" if guest.console.path else ""
    return [
        (
            f"guest {guest.name}: last {len(console)} console lines{where}",
            "\n".join(console) or "(nothing came)",
        ),
        (f"guest {guest.name}: boot timeline", "\n".join(guest.timeline.lines())),
        (f"guest {guest.name}: end", describe_end(guest.end)),
    ]


def shorten(report: pytest.TestReport, error: HarnessError) -> None:
    """The line of pytest's short summary begins with the cause: it is cut at the terminal's end,
    except in CI, where it would be as many lines as the error has."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None and error.cause:
        crash.message = error.cause.splitlines()[0]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    state = session_of(terminalreporter.config)
    parts = _summary(state)
    if not any(lines for _, lines, _ in parts):
        return
    terminalreporter.section("hypervisors and guests")
    for title, lines, bad in parts:
        if not lines:
            continue
        if title:
            terminalreporter.write_line(f"{title}:", red=bad, bold=bad)
        for line in lines:
            terminalreporter.write_line(f"  {line}" if title else line)


def _summary(state: Session) -> list[tuple[str, list[str], bool]]:
    """Title, lines, whether it is bad news."""
    figures = [line for made in state.outputs for line in made["figures"]]
    problems = [line for made in state.outputs for line in made["problems"]]
    timed = {name: took for name, took in state.progress.stages.items() if took >= 0.05}
    stages = ", ".join(f"{name} {took:.1f} s" for name, took in timed.items())
    return [
        ("", figures, False),
        ("usage error", state.remote_usage, True),
        ("kept until the end", [guest.name for guest in state.kept], False),
        ("notes", state.notes, False),
        *(("baseline", made["compared"], made["regressed"] > 0) for made in state.outputs),
        ("left behind", state.leaks, True),
        ("could not be written", problems, True),
        ("stages", [stages] if stages else [], False),
    ]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, object, object]:
    """After all else, pytest's own last line too: where the files are."""
    result = yield
    state = session.config.stash.get(KEY, None)
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if state is not None and terminal is not None:
        for made in state.outputs:
            for name in ("report", "comparison", "samples"):
                if made[name]:
                    terminal.write_line(f"{name}: {made[name]}")
    return result
