"""Markers are checked at collection, and say what a test's guest is made of and how it repeats."""

from __future__ import annotations

from typing import Any

import pytest

from harness.guest.factory import GuestFactory
from tests.plugin.conftest import Run

USAGE = pytest.ExitCode.USAGE_ERROR


@pytest.mark.parametrize(
    ("marker", "problem", "hint"),
    [
        ("guest(memroy=1)", "there is no argument memroy=", "write memory="),
        ("guest(2)", "2 has no name", "write guest(vcpus=2, memory=512)"),
        ("guest(vcpus=0)", "vcpus=0 is no whole number from 1", "write vcpus=2"),
        ("guest(memory=0)", "memory=0 is no whole number from 1", "write memory=256"),
        ("guest(boot_timeout='1')", "boot_timeout='1' is no number", "write boot_timeout=60"),
        ("guest(network='lan')", "network='lan' is unknown", "choose one of auto, bridge*"),
        ("guest(cpus=1)", "cpus=1 is no list of CPUs", "write cpus=[[]1]"),
        ("guest(cpus='0-1')", "cpus='0-1' is no list of CPUs", "write cpus=*0, 1*"),
        ("guest(cpu_limit='1')", "cpu_limit='1' is no number of CPUs", "write cpu_limit=0.5"),
        ("guest(memory_limit=-1)", "memory_limit=-1 is no number", "write memory_limit=256"),
        ("guest(exit_limit=0.5)", "exit_limit=0.5 is no whole number", "write exit_limit=100000"),
        ("guest(sandbox=0)", "sandbox=0 is no bool", "write sandbox=False"),
        ("guest(vmm=1)", "vmm=1 is no mapping", "write vmm={*}"),
        ("guest(devices=1)", "devices=1 is no list of devices", "write devices=*device*"),
        ("payload(mode='fast')", "mode='fast' is unknown", "choose one of real, protected, long"),
        ("guest(disks=['a.img'])", "disks=*'a.img'* is no list of disks", "import Disk from*"),
        ("payload(size=1)", "there is no argument size=", "choose among *memory*"),
        ("payload(16)", "16 has no name", "write payload(memory=16)"),
        ("requires_kvm_cap", "() is no list of names", 'write requires_kvm_cap("NAME", ...)'),
        ("requires_kvm_cap('IRQDF')", "KVM has no capability 'IRQDF'", "write IRQFD"),
        ("only_hypervisors(name='kvm')", "(name=) is no list of names", "write only_hyper*"),
        ("only_hypervisors(1)", "(1) is no list of names", "write only_hypervisors(*"),
        ("requires_vm(1)", "it takes no arguments", "write requires_vm alone"),
        ("compare_native(1)", "it takes no arguments", "write compare_native alone"),
        ("exclusive_host(1)", "it takes no arguments", "write exclusive_host alone"),
        ("boots(3)", "it takes short= and full= alone", "write boots(short=3, full=8)"),
        ("boots(short='3')", "short='3' is no whole number from 1", "write boots(short=3, full=8)"),
        ("boots(short=0)", "short=0 is no whole number from 1", "write boots(short=3, full=8)"),
    ],
)
def test_wrong_argument_is_a_usage_error(run: Run, marker: str, problem: str, hint: str) -> None:
    result = run(
        f"""
        import pytest

        @pytest.mark.{marker}
        def test_it(guest): pass
        """,
        "--collect-only",
    )
    assert result.ret == USAGE
    name = marker.partition("(")[0]
    result.stderr.fnmatch_lines([f"ERROR: *::test_it: marker {name}: {problem}*", f"hint: {hint}"])


def test_markers_of_tests_without_guests_are_not_checked(run: Run) -> None:
    """Another plugin may have a marker of the same name."""
    source = """
        import pytest

        @pytest.mark.guest(table=7)
        def test_dinner(): pass
    """
    run(source).assert_outcomes(passed=1)


def test_usage_error_lists_a_limited_number_of_markers(run: Run) -> None:
    tests = [f"@pytest.mark.guest(cores=2)\ndef test_{number}(guest): pass" for number in range(12)]
    result = run("import pytest\n" + "\n".join(tests))
    assert result.ret == USAGE
    result.stderr.fnmatch_lines(["*test_9: marker guest: *", "hint: *", "and 2 more"])


def test_marker_adds_disks(run: Run, pytester: pytest.Pytester) -> None:
    run(
        """
        import pytest
        from harness.hypervisors.base import Disk

        DISK = Disk("/tmp/data.img", "data")

        @pytest.mark.guest(disks=[DISK])
        def test_it(guest):
            assert guest.spec.disks == (DISK,)
        """
    ).assert_outcomes(passed=1)


REPEATED = """
    import pytest

    names = set()

    @pytest.mark.boots(short=2, full=4)
    def test_marked(guest, boot):
        names.add(guest.name)
        assert len(names) == boot + 1

    def test_unmarked(hypervisor, boot): pass

    @pytest.mark.parametrize("boot", [7])
    def test_own_parameter(hypervisor, boot):
        assert boot == 7
"""


@pytest.mark.parametrize(("profile", "passed"), [("short", 2 + 3 + 1), ("full", 4 + 8 + 1)])
def test_boots_repeat_a_test_with_fresh_guests(run: Run, profile: str, passed: int) -> None:
    run(REPEATED, f"--virt-profile={profile}").assert_outcomes(passed=passed)


def test_suite_with_the_fixture_boot_gets_a_verdict(run: Run) -> None:
    source = """
        def test_work(guest, boot, record_sample):
            record_sample("example.work", {level} + 0.01 * boot, "us", "lower")
    """
    compare = ("--virt-baseline=latest", "--virt-gate=fail", "--virt-no-report")
    assert run(source.format(level=10.0), "--virt-profile=full", "--virt-no-report").ret == 0
    same = run(source.format(level=10.0), "--virt-profile=full", *compare)
    assert same.ret == 0
    same.stdout.fnmatch_lines(["  against latest (*): 0 regressed, 0 improved, 0 *, 1 pass"])
    worse = run(source.format(level=12.0), "--virt-profile=full", *compare)
    assert worse.ret == pytest.ExitCode.TESTS_FAILED
    worse.stdout.fnmatch_lines(["  regressed: example.work (processes) by 19.*"])


def test_factory_refuses_an_unknown_option() -> None:
    """mypy refuses it, too: with a known option it would report the comment as unused."""
    unused: Any = None
    factory = GuestFactory(
        hypervisor=unused, image=unused, vcpus=1, memory=64, boot_timeout=1.0, prefix="unused"
    )
    with pytest.raises(TypeError, match="there is no argument memroy=\nhint: write memory="):
        factory(memroy=1)  # type: ignore[call-arg]
