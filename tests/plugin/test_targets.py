"""Several hypervisors in one session: every test runs on each, and results name them."""

from __future__ import annotations

import os
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


def test_hypervisors_alternate(run: Run) -> None:
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


@pytest.mark.slow
def test_a_seed_draws_a_repeatable_order(run: Run) -> None:
    found = {
        seed: tuple(order(run(SOURCE, TWICE, "-v", f"--virt-order-seed={seed}")))
        for seed in (1, 2, 3)
    }
    assert found[1] == tuple(order(run(SOURCE, TWICE, "-v", "--virt-order-seed=1")))
    assert len(set(found.values())) > 1
    # a test's twins stay beside each other
    bare = [name.partition("[")[0] for name in found[2]]
    assert bare == ["test_boots"] * 6 + ["test_shared"] * 2 + ["test_shared_again"] * 2 + [
        "test_no_guest"
    ]
    assert run(SOURCE, "--virt-order-seed=x").ret == pytest.ExitCode.USAGE_ERROR


def test_samples_name_their_hypervisor(run: Run) -> None:
    result = run(SOURCE, TWICE, "--virt-no-report", "-k", "boots")
    facts, frame = load(Path(result.outlines[-1].partition(": ")[2]))
    assert facts["hypervisor"] == "processes, processes-2"
    booted = frame[frame.metric == "boot.ready"]
    counted = booted.groupby("hypervisor")["boot"].apply(sorted).to_dict()
    assert counted == {"processes": [0, 1, 2], "processes-2": [0, 1, 2]}
    assert set(booted["image"]) == {"0123456789abcdef"}


def test_an_ended_shared_guest_is_replaced_on_its_hypervisor(run: Run) -> None:
    result = run(
        """
        def test_one(shared_guest):
            shared_guest.wait = None

        def test_two(shared_guest, shared_guests):
            if len(set(shared_guests)) == 2 and not hasattr(shared_guests, "done"):
                for guest in shared_guests.values():
                    guest.end_expected = True
                    guest.machine.kill()
                    guest.wait_end()

        def test_three(shared_guest):
            shared_guest.ssh.run(["true"])
        """,
        TWICE,
    )
    result.assert_outcomes(passed=6)


def test_an_unusable_hypervisor_ends_the_session(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROCESSES_REFUSE", "1")
    result = run(SOURCE, TWICE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines("*--hypervisor=processes, processes*processes are not wanted here*")


def test_auto_cannot_be_combined(run: Run) -> None:
    result = run(SOURCE, "--hypervisor=auto")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines("*auto cannot be combined with others*")


MARKED = """
    import pytest

    @pytest.mark.compare_native
    def test_measured(guest): pass

    @pytest.mark.requires_vm
    def test_machine(guest): pass

    @pytest.mark.only_hypervisors("kvm")
    def test_of_kvm(guest): pass

    @pytest.mark.only_hypervisors("processes")
    def test_of_processes(guest): pass
"""


def collected(result: pytest.RunResult) -> list[str]:
    return [line.partition("::")[2] for line in result.outlines if "::" in line]


def test_compare_native_also_collects_for_native(run: Run) -> None:
    assert collected(run(MARKED, "--collect-only", "-q")) == [
        "test_measured[processes]", "test_measured[native]",
        "test_machine", "test_of_kvm", "test_of_processes",
    ]  # fmt: skip


def test_each_test_is_collected_for_its_hypervisors(run: Run) -> None:
    assert collected(run(MARKED, "--hypervisor=native", "--collect-only", "-q")) == [
        "test_measured[processes]", "test_measured[native]", "test_machine[processes]",
        "test_of_kvm[native]", "test_of_kvm[processes]", "test_of_processes[processes]",
    ]  # fmt: skip


def test_excluded_hypervisors_are_skipped_with_a_reason(
    run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = pytester.mkdir("fake") / "unshare"  # as for one who is not root
    fake.write_text("#!/bin/sh\necho unshare failed: Operation not permitted >&2; exit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    result = run(MARKED, "-rs")
    result.assert_outcomes(passed=3, skipped=2)
    result.stdout.fnmatch_lines_random(
        [
            "SKIPPED*this host runs no native guests*Operation not permitted*",
            "SKIPPED*is for kvm, not for processes*",
        ]
    )


def test_unknown_profile_is_a_usage_error(run: Run) -> None:
    result = run(SOURCE, "--virt-profile=long")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines("*--virt-profile: 'long': must be one of short, full*")


@pytest.mark.parametrize("names", ["'hypervisor, n'", "('hypervisor', 'n')", "['hypervisor', 'n']"])
def test_own_parameters_choose_the_hypervisor(run: Run, names: str) -> None:
    result = run(
        f"""
        import pytest

        values = [("processes", 1), ("processes-2", 2)]

        @pytest.mark.parametrize({names}, values, indirect=["hypervisor"])
        def test_it(guest, hypervisor, n):
            assert hypervisor.name == values[n - 1][0]
        """,
        TWICE,
    )
    result.assert_outcomes(passed=2)


def test_hypervisor_that_the_session_lacks_is_a_skip(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.mark.parametrize("hypervisor", ["qemu", "processes", "auto"], indirect=True)
        def test_it(guest, hypervisor):
            assert hypervisor.name == "processes"
        """,
        "-rs",
    )
    result.assert_outcomes(passed=2, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*the session runs on processes, not on qemu"])


def test_ini_file_names_several_hypervisors(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nhypervisor = processes processes\n")
    result = run("def test_it(guest): pass", "-v", hypervisor="")
    assert order(result) == ["test_it[processes]", "test_it[processes-2]"]


def test_parameters_given_by_keyword_collect(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.mark.parametrize(argnames="number", argvalues=[1, 2])
        def test_it(guest, number): pass
        """,
        TWICE,
    )
    result.assert_outcomes(passed=4)
