"""The table of outcomes in docs/reference.md, row by row, with a small hypervisor."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugin.conftest import Run, entry_point

USAGE, FAILED, INTERRUPTED = 4, 1, 2
ONE_TEST = """
    def test_it(guest):
        pass
"""


def consoles(folder: Path) -> list[Path]:
    return sorted(folder.glob("results/*/consoles/*.log"))


def test_guest_boots_runs_commands_and_is_removed(run: Run, pytester: pytest.Pytester) -> None:
    result = run(
        """
        import pathlib

        def test_it(guest, ssh, virt_host, hypervisor, guest_factory):
            assert ssh.run(["echo", "a b"]).stdout == "a b\\n"
            assert ssh.run("exit 3", check=False).status == 3
            assert guest.timeline.seconds("ready") >= guest.timeline.seconds("sshd") >= 0
            assert guest.facts["memory"] == 256 and guest.facts["vmm"] == "sh"
            assert hypervisor.host is virt_host and virt_host.name == "local"
            pathlib.Path("pid").write_text(str(guest.facts["pid"]))
        """
    )
    result.assert_outcomes(passed=1)
    assert not Path(f"/proc/{(pytester.path / 'pid').read_text()}").exists()
    assert not (pytester.path / "results").exists(), "a run without samples or failures left files"


def test_auto_with_nothing_usable_skips_with_one_reason(
    run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry_point(pytester.path, "kvm", "processes:ShellHypervisor")
    monkeypatch.setenv("PROCESSES_REFUSE", "1")
    result = run(
        """
        def test_one(guest): pass
        def test_two(shared_guest): pass
        def test_unit(): pass
        """,
        "-rs",
        hypervisor="",
    )
    result.assert_outcomes(passed=1, skipped=2)
    reasons = [line.split(": ", 1)[1] for line in result.outlines if line.startswith("SKIPPED")]
    assert set(reasons) == {
        "no hypervisor is usable here: processes are not wanted here; hint: unset PROCESSES_REFUSE"
    }


def test_explicit_unusable_hypervisor_is_a_usage_error(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROCESSES_REFUSE", "1")
    result = run(ONE_TEST + "\n    def test_unit(): pass\n")
    assert result.ret == USAGE
    result.stderr.fnmatch_lines(["ERROR: *processes are not wanted here*", "hint: unset *"])
    result.assert_outcomes()


def test_explicit_unusable_host_is_a_usage_error(
    run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry_point(pytester.path, "kvm", "processes:ShellHypervisor")
    monkeypatch.setenv("PROCESSES_REFUSE", "1")
    assert run(ONE_TEST, "--virt-host=local", hypervisor="").ret == USAGE


def test_unusable_hypervisor_affects_only_tests_that_need_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROCESSES_REFUSE", "1")
    run("def test_unit(): pass").assert_outcomes(passed=1)
    assert run(ONE_TEST, "--collect-only").ret == 0


def test_unknown_hypervisor_lists_the_known_ones(run: Run) -> None:
    result = run(ONE_TEST, hypervisor="bhyve")
    assert result.ret == USAGE
    result.stderr.fnmatch_lines(
        ["ERROR:*there is no hypervisor 'bhyve'*", "hint: use one of: auto, *processes*"]
    )


def test_hypervisor_that_does_not_import_is_a_usage_error(
    run: Run, pytester: pytest.Pytester
) -> None:
    entry_point(pytester.path, "broken", "processes:Missing")
    result = run(ONE_TEST, hypervisor="broken")
    assert result.ret == USAGE
    result.stderr.fnmatch_lines(
        [
            "*'broken' cannot be loaded: AttributeError*Missing*",
            "hint: correct the module or the class that the entry point 'broken' names",
        ]
    )
    assert "use one of" not in result.stderr.str()


def test_missing_resources_of_the_host_skip_a_test(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.mark.requires_kvm_cap("IRQCHIP")
        def test_present(guest): pass

        @pytest.mark.requires_kvm_cap("KVM_CAP_PIT2", "IRQCHIP")
        def test_missing(guest): pass

        @pytest.mark.guest(vcpus=5000)
        def test_cpus(guest): pass

        @pytest.mark.guest(memory=1 << 30)
        def test_memory(guest): pass
        """,
        "-rs",
    )
    result.assert_outcomes(passed=1, skipped=3)
    result.stdout.fnmatch_lines_random(
        ["*lacks KVM_CAP_PIT2", "*needs 5000 CPUs, the host has *", "*needs 1073741824 MiB*"]
    )


@pytest.mark.parametrize(
    ("cmdline", "stage", "message"),
    [
        ("hang=init", "init", "the guest did not reach 'init' within 0.7 s"),
        ("hang=sshd", "sshd", "the guest did not reach 'sshd' within 0.7 s"),
        ("refuse", "ready", "the guest did not reach 'ready' within 0.7 s*does not serve SSH*"),
        ("failed=disk", "sshd", "the guest's init failed: disk: No such device"),
        ("panic=boot", "init", "panic: Kernel panic - not syncing: panic=boot*while it booted*"),
        ("poweroff=boot", "init", "power-off: *while it booted*"),
    ],
)
def test_failed_provisioning_is_a_setup_error_with_its_stage(
    run: Run, pytester: pytest.Pytester, cmdline: str, stage: str, message: str
) -> None:
    result = run(
        f"""
        import pytest

        @pytest.mark.guest(cmdline={cmdline!r}, boot_timeout=0.7)
        def test_it(guest):
            pass
        """
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [f"*stage {stage}, guest *{message}", "*: last * console lines*", "booting *"]
    )
    result.stdout.fnmatch_lines(["*boot timeline*", "kernel *s", f"{stage}*not reached"])
    assert len(consoles(pytester.path)) == 1


def test_refused_guest_is_a_setup_error(run: Run) -> None:
    result = run(ONE_TEST, "--guest-memory=8")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*stage create, guest *8 MiB of memory is too little", "*give 16"])


def test_broken_image_is_a_setup_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROCESSES_NO_IMAGE", "1")
    result = run(ONE_TEST + "\n    def test_more(shared_guest): pass\n")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["*stage image*the disk is truncated", "*hint: build it again"])


def test_ssh_lost_between_commands_reconnects(run: Run) -> None:
    run(
        """
        from tests.waiting import wait_until

        def test_it(guest, ssh):
            ssh.run(["true"])
            guest.machine.drop_connections()
            # a command that is sent before the loss is noticed may have run: it is not repeated
            assert wait_until(lambda: not ssh.alive)
            assert ssh.run(["echo", "again"]).stdout == "again\\n"
        """
    ).assert_outcomes(passed=1)


def test_ssh_lost_in_a_command_does_not_repeat_it(run: Run) -> None:
    result = run(
        """
        import pathlib, threading
        import pytest
        from harness.errors import SSHError

        def test_lost(guest, ssh, tmp_path):
            threading.Timer(0.3, guest.machine.drop_connections).start()
            with pytest.raises(SSHError, match="the command was not repeated"):
                ssh.run(f"echo started >>{tmp_path}/log; sleep 20")
            assert (tmp_path / "log").read_text() == "started\\n"
            assert ssh.run(["echo", "usable"]).stdout == "usable\\n"

        def test_reconnect_fails(guest, ssh, monkeypatch):
            def refused(port, timeout):
                raise ConnectionRefusedError("no sshd")
            monkeypatch.setattr(guest.machine, "connect", refused)
            guest.machine.drop_connections()
            ssh.run(["true"])
        """
    )
    result.assert_outcomes(passed=1, failed=1)
    # The loss is noticed before the command or by it; both errors name the server's answer.
    result.stdout.fnmatch_lines(["E *SSH*: *no sshd*"])


def test_guest_that_cannot_be_stopped_is_named(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.fixture(autouse=True)
        def short_timeout(monkeypatch):
            monkeypatch.setattr("harness.guest.base.STOP_TIMEOUT", 0.1)

        @pytest.mark.guest(cmdline="stubborn")
        def test_it(guest):
            pass
        """
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["*left behind:", "  guest *-test-it: the guest still runs * 'pid': *"]
    )
    assert result.ret == FAILED


def test_leak_of_the_hypervisor_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROCESSES_LEAVE", "harness.slice/guest-7")
    result = run(ONE_TEST)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["left behind:", "  hypervisor processes: cgroup harness.slice/guest-7 is*"]
    )


def test_ctrl_c_ends_all_guests(run: Run, pytester: pytest.Pytester) -> None:
    result = run(
        """
        import pathlib

        def test_it(guest, shared_guest, guest_factory):
            pids = [guest.facts["pid"], shared_guest.facts["pid"], guest_factory().facts["pid"]]
            pathlib.Path("pids").write_text(" ".join(map(str, pids)))
            raise KeyboardInterrupt
        """,
        apart=True,
    )
    assert result.ret == INTERRUPTED
    pids = (pytester.path / "pids").read_text().split()
    assert len(pids) == 3
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_guests_of_a_group_boot_concurrently_and_all_end(
    run: Run, pytester: pytest.Pytester
) -> None:
    result = run(
        """
        def test_it(guest_group):
            guests = guest_group(3, memory=64)
            assert len({guest.name for guest in guests}) == 3
            assert [guest.spec.memory for guest in guests] == [64, 64, 64]
            # all guests are created before the first is ready
            first_ready = guests[0].timeline.marks["ready"]
            assert all(guest.timeline.marks["create"] < first_ready for guest in guests)

        def test_one_fails(guest_group):
            guest_group(2, cmdline="failed=disk")
        """
    )
    result.assert_outcomes(passed=1, failed=1)
    assert len(consoles(pytester.path)) == 2


def test_failing_test_of_the_suites_leaves_no_guest(run: Run) -> None:
    """Guests of module fixtures keep running."""
    result = run(
        """
        import pytest
        from suites.conftest import end_guests_of_test

        @pytest.fixture(scope="module")
        def neighbour(guest_factory):
            return guest_factory("neighbour")

        def test_fails(guest_factory, neighbour):
            guest_factory("left")
            assert False

        def test_next(neighbour, harness_session):
            neighbour.check_alive()
            assert harness_session.guests.running == [neighbour]
        """
    )
    result.assert_outcomes(failed=1, passed=1)
