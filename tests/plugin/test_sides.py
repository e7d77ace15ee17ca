"""Several hypervisors in one session: every test on each, in turn; results tell them apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.results.store import load
from tests.plugin.conftest import Run

TWICE = "--hypervisor=processes"
SOURCE = """
    import pytest

    @pytest.mark.parametrize("boot", range(3))
    def test_boots(guest, hypervisor, record_sample, boot):
        assert guest.hypervisor is hypervisor
        record_sample("boot.ready", 1.0 + boot, "s", "lower", boot=boot)

    def test_shared(shared_guest, shared_guests):
        shared_guest.ssh.run(["true"])
        assert len(set(guest.name for guest in shared_guests.values())) == len(shared_guests)

    def test_shared_again(shared_guest, shared_guests):
        assert shared_guest.ssh.alive
        assert len(shared_guests) == 2

    def test_no_guest():
        pass
"""


def order(result: pytest.RunResult) -> list[str]:
    marked = [line.split(" ")[0] for line in result.outlines if " PASSED" in line]
    return [line.partition("::")[2] for line in marked]


def test_each_test_runs_on_each_in_turn(run: Run) -> None:
    result = run(SOURCE, TWICE, "-v")
    result.assert_outcomes(passed=11)
    assert order(result) == [
        "test_boots[processes-0]", "test_boots[processes-2-0]",
        "test_boots[processes-2-1]", "test_boots[processes-1]",
        "test_boots[processes-2]", "test_boots[processes-2-2]",
        "test_shared[processes-2]", "test_shared[processes]",
        "test_shared_again[processes]", "test_shared_again[processes-2]",
        "test_no_guest",
    ]  # fmt: skip


def test_samples_say_on_which(run: Run) -> None:
    result = run(SOURCE, TWICE, "--virt-report=no", "-k", "boots")
    facts, frame = load(Path(result.outlines[-1].partition(": ")[2]))
    assert facts["hypervisor"] == "processes, processes-2"
    booted = frame[frame.metric == "boot.ready"]
    counted = booted.groupby("hypervisor")["boot"].apply(sorted).to_dict()
    assert counted == {"processes": [0, 1, 2], "processes-2": [0, 1, 2]}
    assert set(booted["image"]) == {"0123456789abcdef"}


def test_a_dead_shared_guest_is_replaced_on_its_own_side(run: Run) -> None:
    result = run(
        """
        def test_one(shared_guest):
            shared_guest.wait = None

        def test_two(shared_guest, shared_guests):
            if len(set(shared_guests)) == 2 and not hasattr(shared_guests, "done"):
                for guest in shared_guests.values():
                    guest.expected = True
                    guest.machine.kill()
                    guest.wait_end()

        def test_three(shared_guest):
            shared_guest.ssh.run(["true"])
        """,
        TWICE,
    )
    result.assert_outcomes(passed=6)


def test_one_that_cannot_be_had_ends_the_session(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROCESSES_REFUSE", "1")
    result = run(SOURCE, TWICE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines("*--hypervisor=processes, processes*processes are not wanted here*")


def test_auto_stands_alone(run: Run) -> None:
    result = run(SOURCE, "--hypervisor=auto")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines("*auto chooses one by itself; name those that are to be compared*")
