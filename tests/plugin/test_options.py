"""Options, their ini twins, markers, header, kept guests."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.plugin.options import OPTIONS
from tests.plugin.conftest import Run

USAGE = 4


def test_every_option_is_in_one_group_and_has_an_ini_option(run: Run) -> None:
    result = run("", "--help")
    text = result.stdout.str()
    group = text.partition("hypervisors and guests (pytest-hypervisor):")[2].partition("\n\n")[0]
    for option in OPTIONS:
        assert (option.flag if option.is_switch else f"{option.flag}=") in group
        assert f"same as\n  {option.flag}" in text or f"same as {option.flag}" in " ".join(
            text.split()
        )


def test_command_line_overrides_ini_file(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makeini(
        """
        [pytest]
        hypervisor = processes
        guest_memory = 128
        guest_vcpus = 2
        guest_boot_timeout = 7.5
        guest_network = none
        guest_ssh = vsock
        guest_artifacts = kept
        """
    )
    result = run(
        """
        def test_it(guest):
            spec = guest.spec
            assert (spec.vcpus, spec.memory, spec.boot_timeout) == (2, 64, 7.5)
            assert (spec.network, spec.ssh) == ("none", "vsock")
        """,
        "--guest-memory=64",
        hypervisor="",
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["hypervisor: processes on host auto*2 vCPU, 64 MiB"])
    (console,) = (pytester.path / "kept").iterdir()
    assert "harness: sshd" in console.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--guest-memory=much"], "--guest-memory: 'much': invalid literal"),
        (["--guest-vcpus=0"], "--guest-vcpus: '0': must be at least 1"),
        (["--guest-boot-timeout=nan"], "must be a number of seconds above 0"),
        (["--guest-network=lan"], "must be one of auto, bridge, passt, none"),
        (["--guest-ssh=telnet"], "must be one of auto, vsock, network"),
        (["--guest-keep=some"], "must be one of no, failed, always"),
        (["--guest-boot=floppy"], "must be one of auto, pvh, linux64, linux16"),
        (["--virt-gate=maybe"], "must be one of off, report, fail"),
        (["--virt-results=nowhere://x"], "nowhere"),
        (["--virt-results=sftp://me:secret@host/x"], "password"),
        (["--virt-gate=fail"], "--virt-gate=fail requires --virt-baseline=RUN"),
    ],
)
def test_invalid_values_are_usage_errors(run: Run, arguments: list[str], message: str) -> None:
    result = run("def test_it(): pass", *arguments)
    assert result.ret == USAGE
    assert message in result.stderr.str()


def test_error_names_the_ini_file(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nguest_keep = some\n")
    result = run("def test_it(): pass")
    assert result.ret == USAGE
    assert "guest_keep in the ini file: 'some'" in result.stderr.str()


@pytest.mark.parametrize("hypervisor", ["", "processes"])
def test_empty_hypervisor_in_ini_file_is_a_usage_error(
    run: Run, pytester: pytest.Pytester, hypervisor: str
) -> None:
    pytester.makeini("[pytest]\nhypervisor =\n")
    result = run("def test_it(guest): pass", hypervisor=hypervisor)
    if hypervisor:  # the command line overrides it
        result.assert_outcomes(passed=1)
        return
    assert result.ret == USAGE
    assert "hypervisor in the ini file: it has no value\nhint: write " in result.stderr.str()


def test_markers_are_registered_once(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.mark.guest(vcpus=1, memory=32, network="bridge", ssh="network")
        @pytest.mark.requires_kvm_cap("IRQCHIP")
        @pytest.mark.exclusive_host
        @pytest.mark.benchmark(group="x")
        def test_it(guest):
            assert guest.spec.memory == 32
            assert (guest.spec.network, guest.spec.ssh) == ("bridge", "network")
        """,
        "--strict-markers",
    )
    result.assert_outcomes(passed=1)
    listed = run("", "--markers").stdout.str()
    assert listed.count("@pytest.mark.benchmark") == 1
    alone = run("", "--markers", "-p", "no:benchmark").stdout.str()
    assert alone.count("@pytest.mark.benchmark") == 1


def test_unknown_argument_of_marker_guest_is_a_usage_error(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.mark.guest(cores=2)
        def test_it(guest): pass
        """
    )
    assert result.ret == USAGE
    result.stderr.fnmatch_lines(
        [
            "ERROR: *::test_it: marker guest: there is no argument cores=",
            "hint: choose among *vcpus*",
        ]
    )


def test_fixture_of_another_plugin_starts_no_hypervisor(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROCESSES_REFUSE", "1")
    run(
        """
        import pytest

        @pytest.fixture
        def hypervisor(): return 7

        def test_it(hypervisor): assert hypervisor == 7
        """
    ).assert_outcomes(passed=1)


def test_run_without_our_tests_is_not_altered(run: Run) -> None:
    source = """
        def test_unit(): pass

        def test_theirs(benchmark):
            benchmark.pedantic(int, rounds=3)
    """
    result = run(source, "--benchmark-only", "-rs")
    result.assert_outcomes(passed=1, skipped=1)
    assert "hypervisor: " not in result.stdout.str()
    assert "benchmark: " in result.stdout.str()


def test_header_names_what_the_tests_use(run: Run) -> None:
    result = run("def test_it(guest): pass", "--collect-only")
    result.stdout.fnmatch_lines(["hypervisor: processes on host auto*1 vCPU, 256 MiB"])
    quiet = run("def test_it(guest): pass", "--no-header", "--collect-only")
    assert "hypervisor: " not in quiet.stdout.str()


def test_guests_are_not_kept_without_a_terminal(run: Run) -> None:
    result = run("def test_it(guest): assert 0", "--guest-keep=failed")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["notes:", "  guest *-test-it was not kept: *waits at a terminal*"])


def test_kept_guests_have_a_working_ssh_line(
    run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("ssh") is None:
        pytest.skip("no ssh here: apt-get install openssh-client")
    monkeypatch.setattr("harness.plugin.kept_guests.has_terminal", lambda: True)
    outputs: list[str] = []

    def run_ssh_lines(shown: list[str]) -> None:
        for line in shown:
            command = [*shlex.split(line), "echo", "inside"]
            outputs.append(subprocess.check_output(command, text=True, timeout=20))

    monkeypatch.setattr("harness.plugin.kept_guests.wait_for_enter", run_ssh_lines)
    result = run(
        """
        def test_good(guest): pass
        def test_bad(guest): assert 0
        """,
        "--guest-keep=failed",
    )
    result.assert_outcomes(passed=1, failed=1)
    assert outputs == ["inside\n"]
    result.stdout.fnmatch_lines(["harness: kept *-test-bad: ssh -i *", "kept until the end:"])


def test_exclusive_test_holds_the_lock_alone(run: Run, pytester: pytest.Pytester) -> None:
    """Shared locks go together, the exclusive one alone: seen by trying from inside a test."""
    result = run(
        """
        import fcntl, os, pathlib
        import pytest

        def free(kind):
            (lock,) = pathlib.Path(os.environ["XDG_RUNTIME_DIR"]).glob("*/local.lock")
            with lock.open() as held:
                try:
                    fcntl.flock(held, kind | fcntl.LOCK_NB)
                except BlockingIOError:
                    return False
                return True

        def test_shared(guest):
            assert free(fcntl.LOCK_SH) and not free(fcntl.LOCK_EX)

        @pytest.mark.exclusive_host
        def test_alone(guest):
            assert not free(fcntl.LOCK_SH)

        def test_unit():
            assert free(fcntl.LOCK_EX)
        """
    )
    result.assert_outcomes(passed=3)


def test_consoles_of_failed_tests_are_kept(run: Run, pytester: pytest.Pytester) -> None:
    result = run(
        """
        def test_good(guest): pass

        def test_bad(guest):
            guest.machine.tell("last words")
            guest.console.wait_for("last words", 5)
            assert 0
        """
    )
    result.assert_outcomes(passed=1, failed=1)
    (console,) = Path(pytester.path, "results").glob("*/consoles/*")
    assert console.name.endswith("-test-bad.log")
    assert "last words" in console.read_text()
    result.stdout.fnmatch_lines([f"*console lines (all of it: {console})*", "last words"])
