"""Sessions with several pytest-xdist workers."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import Run

pytest.importorskip("xdist", reason="pytest-xdist is not installed")
USAGE = 4


def test_names_carry_run_and_worker(run: Run, pytester: pytest.Pytester) -> None:
    result = run(
        """
        import pathlib, pytest

        @pytest.mark.parametrize("n", range(4))
        def test_it(guest, n):
            pathlib.Path(f"name-{n}").write_text(guest.name)
        """,
        "-n2",
        apart=True,
    )
    result.assert_outcomes(passed=4)
    names = [path.read_text() for path in pytester.path.glob("name-*")]
    assert len(set(names)) == 4
    assert len({name.split("-")[0] for name in names}) == 1
    assert {name.split("-")[1] for name in names} == {"gw0", "gw1"}
    assert not (pytester.path / "results").exists()


def test_measured_tests_with_several_workers_are_a_usage_error(run: Run) -> None:
    result = run("def test_it(guest, record_sample): pass", "-n2", apart=True)
    assert result.ret == USAGE
    result.stdout.fnmatch_lines(["usage error:", "*test_it measures, and 2 workers would disturb*"])


@pytest.mark.slow
def test_one_worker_may_measure_and_the_controller_prints_the_paths(run: Run) -> None:
    result = run(
        "def test_it(record_sample): record_sample('x', 1, 's', 'lower')", "-n1", apart=True
    )
    result.assert_outcomes(passed=1)
    assert [line.partition(":")[0] for line in result.outlines[-2:]] == ["report", "samples"]


def test_an_unusable_hypervisor_is_a_usage_error_on_workers(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROCESSES_REFUSE", "1")
    result = run("def test_it(guest): pass", "-n2", apart=True)
    assert result.ret == USAGE
    result.stdout.fnmatch_lines(["*processes are not wanted here*"])
    result.stdout.fnmatch_lines(["hypervisor: processes on host auto*1 vCPU, 256 MiB"])


def test_first_usage_error_of_a_worker_is_reported(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.mark.guest(cores=2)
        def test_it(guest, record_sample): pass
        """,
        "-n2",
        "--virt-baseline=latest",
        apart=True,
    )
    assert result.ret == USAGE
    result.stdout.fnmatch_lines(["usage error:", "*marker guest: there is no argument cores=*"])
