"""A session compared with its baseline: what it reports, and when it fails."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import Run

USAGE = pytest.ExitCode.USAGE_ERROR


def measured(level: float, boots: int = 8) -> str:
    return f"""
    def test_it(guest, record_sample):
        for boot in range({boots}):
            record_sample("a.work", {level} + 0.01 * boot, "us", "lower", boot=boot)
    """


def test_gate_fail_fails_on_a_regression(run: Run, pytester: pytest.Pytester) -> None:
    assert run(measured(10.0)).ret == 0
    result = run(measured(12.0), "--virt-baseline=latest", "--virt-gate=fail")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "baseline:",
            "  against latest (*): 1 regressed, 0 improved, 0 inconclusive, 0 pass",
            "  regressed: a.work (processes) by 19.*% (*% to *%): 10.0* to 12.0* us",
            "gate failed: 1 figure regressed",
            "comparison: *compare.html",
        ]
    )
    (page,) = pytester.path.rglob("compare.html")
    assert "a.work" in page.read_text()


def test_gate_report_reports_a_regression_and_passes(run: Run) -> None:
    assert run(measured(10.0)).ret == 0
    result = run(measured(12.0), "--virt-baseline=latest", "--virt-no-report")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["  regressed: a.work (processes) by 19.*"])
    assert "compare.html" not in result.stdout.str()


def test_equal_figures_pass(run: Run) -> None:
    assert run(measured(10.0)).ret == 0
    result = run(measured(10.0), "--virt-baseline=latest", "--virt-gate=fail")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["  against latest (*): 0 regressed, 0 improved, 0 *, 1 pass"])


def test_gate_off_compares_nothing(run: Run) -> None:
    result = run(measured(10.0), "--virt-baseline=never-there", "--virt-gate=off")
    assert result.ret == 0
    assert "baseline" not in "\n".join(result.outlines[2:])


def test_missing_baseline_is_a_usage_error(run: Run) -> None:
    result = run(measured(10.0), "--virt-baseline=latest")
    assert result.ret == USAGE
    assert "--virt-baseline: " in result.stderr.str()
    assert "the store is empty" in result.stderr.str()


def test_no_common_figure_fails_only_with_gate_fail(run: Run) -> None:
    assert run(measured(10.0)).ret == 0
    other = measured(10.0).replace("a.work", "a.other")
    ungated = run(other, "--virt-baseline=latest")
    assert ungated.ret == 0
    ungated.stdout.fnmatch_lines(["  comparison: *have no figure in common*"])
    assert run(other, "--virt-baseline=2026-01-01", "--virt-gate=fail").ret == USAGE
    gated = run(
        measured(10.0).replace("a.work", "a.third"), "--virt-baseline=latest", "--virt-gate=fail"
    )
    assert gated.ret == pytest.ExitCode.TESTS_FAILED
    gated.stdout.fnmatch_lines(["gate failed: nothing was compared, because of an error"])


def test_gate_fail_names_too_few_boots(run: Run) -> None:
    assert run(measured(10.0, boots=2)).ret == 0
    again = ("--virt-baseline=latest", "--virt-gate=fail")
    result = run(measured(10.0, boots=2), *again)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "  there are too few boots: no regression could be shown (*)",
            "gate failed: the comparison could not show a regression",
        ]
    )
    assert "run fewer tests" not in result.stdout.str()


def test_gate_fail_fails_when_nothing_was_measured(run: Run) -> None:
    assert run(measured(10.0)).ret == 0
    result = run("def test_it(guest): pass", "--virt-baseline=latest", "--virt-gate=fail")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["gate failed: nothing was compared, because no test measured anything"]
    )


def test_gate_of_the_ini_file_ignores_a_session_that_measures_nothing(
    run: Run, pytester: pytest.Pytester
) -> None:
    assert run(measured(10.0)).ret == 0
    pytester.makeini("[pytest]\nvirt_gate = fail\nvirt_baseline = latest\n")
    assert run("def test_it(guest): pass").ret == 0
    worse = run(measured(12.0))
    assert worse.ret == pytest.ExitCode.TESTS_FAILED
    worse.stdout.fnmatch_lines(["  regressed: a.work (processes) by 19.*"])


def test_gate_of_the_ini_file_requires_a_baseline_only_to_measure(
    run: Run, pytester: pytest.Pytester
) -> None:
    pytester.makeini("[pytest]\nvirt_gate = fail\n")
    assert run("def test_it(guest): pass").ret == 0
    result = run(measured(10.0))
    assert result.ret == USAGE
    assert "--virt-gate=fail requires --virt-baseline=RUN" in result.stderr.str()
