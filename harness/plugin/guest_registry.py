"""The session's guests: which run, which the present test uses, which failed, which are kept."""

# ruff: noqa: PLC0415 - every pytest run loads this module, so heavy imports are inside functions
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeGuard

from harness.errors import HarnessError
from harness.plugin.context import RunContext
from harness.plugin.session_report import SessionReport

if TYPE_CHECKING:
    from harness.guest.base import BaseGuest
    from harness.guest.guest import Guest


class GuestRegistry:
    """All guests of the session, from their start to their end.

    Attributes:
        running: guests that may still run.
        used: guests that the present test uses.
        reported: guests whose unexpected end a test has already failed for.
        failed: guests of failed tests. Their consoles are kept.
        kept: guests that --guest-keep leaves running until the end.
    """

    def __init__(self, context: RunContext, report: SessionReport) -> None:
        self._context = context
        self._report = report
        self._closed = False
        self.running: list[BaseGuest] = []
        self.used: list[BaseGuest] = []
        self.reported: set[BaseGuest] = set()
        self.failed: set[BaseGuest] = set()
        self.kept: list[Guest] = []

    def add(self, guest: BaseGuest) -> None:
        """Register a guest that the present test started."""
        self.running.append(guest)
        self.used.append(guest)

    @property
    def all_ended(self) -> bool:
        """Whether no guest runs."""
        return all(guest.ended.is_set() for guest in self.running)

    def note_used(self, values: Sequence[object]) -> None:
        """Count the running guests among a test's fixture values as used by it."""
        self.used += [one for one in self.running if one in values and one not in self.used]

    def report_unexpected_ends(self, earlier: set[BaseGuest]) -> list[BaseGuest]:
        """Guests that ended unexpectedly and that no test has failed for. Each is returned once.

        earlier: guests that ended before the present test.
        """
        known = earlier | self.reported
        ended = [one for one in self.running if one.ended_unexpectedly and one not in known]
        self.reported.update(ended)
        self.used += [one for one in ended if one not in self.used]
        return ended

    def release(self, guest: BaseGuest) -> None:
        """Stop a guest that its fixture needs no more, or keep it as --guest-keep says.

        Raises GuestEnded when it ended unexpectedly and no test failed for it, HarnessError
        (stage "teardown") when it cannot be stopped.
        """
        if self._keeps(guest):
            self.kept.append(guest)
            return
        # The report of a failed test already describes its guests.
        unnoticed = guest.ended_unexpectedly and guest not in self.reported | self.failed
        try:
            guest.stop()
        except HarnessError as error:
            self._report.add_leak(f"guest {guest.name}", error)
            raise
        finally:
            if guest in self.running:
                self.running.remove(guest)
            artifacts = self._context.settings.artifacts is not None
            guest.console.close(discard=not (guest in self.failed or unnoticed or artifacts))
        if unnoticed:
            self.reported.add(guest)
            raise guest.ended_error("unexpectedly, between tests")

    def release_all(self, guests: Sequence[BaseGuest]) -> None:
        """Release each. Raises its error, or an ExceptionGroup of several, after the last one."""
        errors: list[Exception] = []
        for guest in guests:
            try:
                self.release(guest)
            except HarnessError as error:
                errors.append(error)
        raise_all("guests of one fixture", errors)

    def _keeps(self, guest: BaseGuest) -> TypeGuard[Guest]:
        from harness.guest.guest import Guest
        from harness.plugin import kept_guests

        keep = self._context.settings.keep
        chosen = keep == "always" or (keep == "failed" and guest in self.failed)
        if not chosen or self._closed or guest in self.kept:
            return False
        if not isinstance(guest, Guest) or guest.ended.is_set() or guest.timeline.next_stage:
            return False  # it accepts no login
        if self._context.worker is not None or not kept_guests.has_terminal():
            self._report.notes.append(
                f"guest {guest.name} was not kept: --guest-keep waits at a terminal, "
                "and this session has none"
            )
            return False
        return True

    def replace_ended(self, guest: Guest) -> None:
        """Note that a shared guest had ended before a test. Its release then raises nothing."""
        if guest.ended_unexpectedly and guest not in self.reported:
            self.reported.add(guest)
            self.failed.add(guest)
            error = guest.ended_error()
            self._report.notes.append(f"replaced before a test: {error}".splitlines()[0])

    def keep_remaining(self) -> None:
        """Choose the guests to keep at the session's end. Later releases keep none."""
        self.kept += [guest for guest in self.running if self._keeps(guest)]
        self._closed = True

    @property
    def closed(self) -> bool:
        """Whether the session ends."""
        return self._closed

    def close(self, attempt: Callable[[str, Callable[[], object]], None]) -> None:
        """Offer the kept guests at the terminal, then end every guest. As HostManager.close()."""
        if self.kept:
            from harness.plugin.kept_guests import offer

            attempt("kept guests", lambda: offer(self.kept, self._context.progress))
            for guest in self.kept:
                guest.end_expected = True  # no test fails for what the user did to it
        for one in list(self.running):
            attempt(f"guest {one.name}", partial(self.release, one))


def raise_all(what: str, errors: Sequence[Exception]) -> None:
    """Raise the only error, or an ExceptionGroup of several. Does nothing without errors."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ExceptionGroup(what, errors)
