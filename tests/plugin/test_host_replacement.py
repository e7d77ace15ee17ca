"""A host that asks for it (an emulated one, after many boots) is replaced between two tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.results.store import load
from tests.plugin.conftest import Run

SOURCE = """
    import pytest

    seen = []

    @pytest.fixture(scope="module")
    def kept(virt_host):
        seen.append(virt_host)
        yield virt_host
        assert virt_host is seen[-1]

    def test_host_asks_for_replacement(guest, virt_host, kept, record_sample):
        record_sample("boot.ready", 1.0, "s", "lower", boot=0)
        virt_host.needs_replacement = True  # what an emulated host says of itself
        virt_host.replacement_reason = "guests of processes left memory behind"

    def test_runs_on_another_host(guest, virt_host, kept, hypervisor, record_sample):
        record_sample("boot.ready", 1.0, "s", "lower", boot=1)
        assert virt_host is kept is hypervisor.host is not seen[0]
        assert len(seen) == 2
        assert guest.hypervisor is hypervisor
        guest.ssh.run(["true"])
        assert guest.name.split("-")[2] == "1", "names go on"

    def test_waits_for_guests(shared_guest, virt_host):
        virt_host.needs_replacement = True

    def test_still_waits(shared_guest, virt_host):
        assert virt_host.needs_replacement
        shared_guest.ssh.run(["true"])
"""


def test_host_is_replaced_between_two_tests(run: Run, pytester: pytest.Pytester) -> None:
    result = run(SOURCE, "--virt-no-report")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(
        "harness: The emulated host must be replaced before the next test. Another one starts now."
    )
    result.stdout.fnmatch_lines(
        "*the emulated host was replaced: guests of processes left memory behind"
    )
    _, frame = load(Path(result.outlines[-1].partition(": ")[2]))
    assert sorted(frame[frame.metric == "boot.ready"]["boot"]) == [0, 1]
    # both hosts were watched, as one run
    assert len(frame[frame.metric == "host.cpu.user"]) == 2


@pytest.mark.slow
def test_samples_survive_an_interrupt_while_the_host_is_replaced(run: Run) -> None:
    result = run(
        """
        import processes

        def interrupted(*arguments):
            raise KeyboardInterrupt

        def test_records(guest, virt_host, record_sample):
            record_sample("boot.ready", 1.0, "s", "lower")
            virt_host.needs_replacement = True
            virt_host.replacement_reason = "guests of processes left memory behind"
            processes.ShellHypervisor.__init__ = interrupted

        def test_never_runs(guest):
            pass
        """,
        "--virt-no-report",
        apart=True,
    )
    assert result.ret == pytest.ExitCode.INTERRUPTED
    _, frame = load(Path(result.outlines[-1].partition(": ")[2]))
    assert list(frame[frame.metric == "boot.ready"]["value"]) == [1.0]
