"""The conformance suite as a third party starts it; tests/real runs it in guests."""

from __future__ import annotations

from tests.plugin.conftest import Run


def test_third_party_collects_the_suite(run: Run) -> None:
    result = run("", "--pyargs", "harness.conformance", "--collect-only", "-q")
    assert result.ret == 0
    for test in (
        "*test_guest.py::test_the_boot_reaches_its_stages_in_order*",
        "*test_ends.py::test_the_guest_ends[[]panic]*",
        "*test_resources.py::test_disks_have_their_names_and_contents*",
    ):
        result.stdout.fnmatch_lines([test])
