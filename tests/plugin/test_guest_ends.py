"""Guests that end in a test, or after it: which test fails, and what is replaced."""

from __future__ import annotations

from tests.plugin.conftest import Run

USAGE, FAILED, INTERRUPTED = 4, 1, 2


def test_panic_ends_a_running_command_within_a_second(run: Run) -> None:
    result = run(
        """
        import threading, time
        import pytest
        from harness.errors import GuestEnded

        def test_it(guest, ssh):
            start = time.monotonic()
            threading.Timer(0.3, guest.machine.tell, ["panic"]).start()
            try:
                ssh.run(["sleep", "20"])
            finally:
                assert time.monotonic() - start < 1.3

        def test_next(guest, ssh):
            ssh.run(["true"])
        """
    )
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(
        ["*GuestEnded: *panic: Kernel panic - not syncing: sysrq triggered crash*"]
    )
    result.stdout.fnmatch_lines(["*boot timeline*", "ready *s", "*: end*", "panic: Kernel panic*"])


def test_long_detail_of_an_end_appears_once(run: Run) -> None:
    result = run(
        """
        from dataclasses import replace

        def test_it(shared_guest, ssh):
            shared_guest.machine.stop()
            assert shared_guest.ended.wait(5)
            usage = "status 2: no such option\\n" + "usage\\n" * 20
            shared_guest.end = replace(shared_guest.end, reason="vmm-error", detail=usage)
            ssh.run(["true"])
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*GuestEnded: *vmm-error: status 2: no such option ...*"])
    assert result.outlines.count("usage") == 20, "in the section on the guest's end"


def test_unnoticed_end_fails_only_its_test(run: Run) -> None:
    result = run(
        """
        import os, signal

        def test_unnoticed(shared_guest):
            os.kill(shared_guest.facts["pid"], signal.SIGKILL)
            shared_guest.ended.wait(5)

        def test_next(shared_guest, ssh):
            assert ssh is shared_guest.ssh
            ssh.run(["true"])
        """
    )
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*GuestEnded: *killed: * (while the test ran)"])


def test_fixtures_of_a_replaced_shared_guest_are_set_up_again(run: Run) -> None:
    result = run(
        """
        import pytest
        guests = []

        @pytest.fixture(scope="module")
        def prepared(shared_guest):
            guests.append(shared_guest)
            return shared_guest

        def test_first(prepared):
            with prepared.expect_end("panic"):
                prepared.machine.tell("panic")

        def test_second(prepared):
            assert guests[0] is not guests[1] is prepared
            prepared.ssh.run(["true"])

        def test_third(prepared):
            assert len(guests) == 2
        """
    )
    result.assert_outcomes(passed=3)


def test_expected_end_does_not_fail_the_test(run: Run) -> None:
    result = run(
        """
        import pytest
        from harness.errors import GuestEnded, HarnessError

        def test_panic(guest, ssh):
            with guest.expect_end("panic", timeout=5) as gone:
                guest.machine.tell("panic")
                ssh.run(["sleep", "20"])
            assert gone.end.detail.endswith("sysrq triggered crash")

        def test_wait(guest):
            guest.machine.tell("off")
            assert guest.wait_end(5).reason == "power-off"

        def test_another_reason(guest):
            with pytest.raises(GuestEnded, match="expected 'panic'"):
                with guest.expect_end("panic", timeout=5):
                    guest.machine.tell("off")

        def test_does_not_end(guest):
            with guest.expect_end(timeout=0.1):
                pass
        """
    )
    # test_another_reason fails at its end: nothing expected the guest to power off
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(["*HarnessError: *the guest did not end within 0.1 s"])


def test_end_after_the_test_is_a_teardown_error(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.fixture
        def late(guest):
            yield guest
            guest.machine.tell("off")
            guest.ended.wait(5)

        def test_it(late):
            pass
        """
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*GuestEnded: *power-off: *unexpectedly, between tests*"])


def test_of_many_guests_only_some_have_sections(run: Run) -> None:
    """Those that the error names or that ended, and the first ones; the others have a line each."""
    result = run(
        """
        def test_it(guest_factory):
            guests = [guest_factory(f"number-{index}") for index in range(6)]
            guests[5].end_expected = True
            guests[5].machine.stop()
            assert guests[5].ended.wait(5)
            guests[4].ssh.run(["false"])
        """
    )
    result.assert_outcomes(failed=1)
    timelines = [line for line in result.outlines if "boot timeline" in line]
    assert [line.split(":")[0].rsplit("-", 1)[1] for line in timelines] == ["0", "1", "4", "5"]
    result.stdout.fnmatch_lines(["*2 more guests*", "*number-2: still running", "*number-3: *"])
