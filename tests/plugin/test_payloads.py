"""Payload tests of a session: their host, their marker, their outcomes."""

from __future__ import annotations

import os

import pytest

from harness.errors import HostError
from harness.hosts import probe, select
from harness.hosts.probe import Obstacle, Verdict
from tests.plugin.conftest import Run

USAGE = 4
ONE_TEST = """
    def test_it(payload):
        guest = payload(bytes.fromhex("ba04060000" "66b80034" "66ef" "f4"))
        assert guest.wait_end().reason == "power-off"
"""
needs_kvm = pytest.mark.skipif(
    not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="/dev/kvm is not there or not ours"
)


def no_stock_guests() -> Verdict:
    return Verdict("pvm", (Obstacle("it is a software KVM", "get another"),))


@pytest.fixture
def software_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose KVM runs no stock guests: its payload tests take it all the same."""
    monkeypatch.setattr(probe, "probe_local", no_stock_guests)


@pytest.fixture
def no_kvm(software_kvm: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without KVM, on which no host can be started, either."""

    def refuse(name: str, progress: object) -> None:
        raise HostError("no host can be had", hint="buy one", stage="host")

    monkeypatch.setattr(probe, "probe_payloads", lambda: Obstacle("no KVM", "load it"))
    monkeypatch.setattr(select, "select_host", refuse)


@needs_kvm
@pytest.mark.parametrize(
    "host", [(), ("--virt-host=local",), ("--virt-host=local", "--hypervisor=kvm")]
)
@pytest.mark.usefixtures("software_kvm")
def test_payloads_run_on_local_kvm_and_start_no_other_host(
    run: Run, monkeypatch: pytest.MonkeyPatch, host: tuple[str, ...]
) -> None:
    def fail(name: str, progress: object) -> None:
        raise AssertionError("a host was started")

    monkeypatch.setattr(select, "select_host", fail)
    result = run(ONE_TEST, *host, hypervisor="")
    result.assert_outcomes(passed=1)
    assert result.ret == 0


@needs_kvm
@pytest.mark.usefixtures("software_kvm")
def test_the_marker_selects_payload_tests(run: Run) -> None:
    source = ONE_TEST + "    def test_unit(): pass\n"
    run(source, "-m", "payload", hypervisor="").assert_outcomes(passed=1, deselected=1)


@pytest.mark.usefixtures("no_kvm")
def test_payload_tests_are_skipped_without_kvm(run: Run) -> None:
    result = run(ONE_TEST, "-rs", hypervisor="")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*no payload guest can run here: no host can be had*"])


@pytest.mark.usefixtures("no_kvm")
@pytest.mark.parametrize("name", ["--virt-host=local", "--virt-host=emulated", "--hypervisor=kvm"])
def test_a_named_host_without_kvm_is_a_usage_error(run: Run, name: str) -> None:
    result = run(ONE_TEST, name, hypervisor="")
    assert result.ret == USAGE


@pytest.mark.usefixtures("no_kvm")
def test_payload_tests_are_skipped_with_another_hypervisor(run: Run) -> None:
    source = ONE_TEST + "    def test_guest(guest): pass\n"
    result = run(source, "-rs")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*run on the built-in VMM, not on processes*"])


@needs_kvm
@pytest.mark.usefixtures("software_kvm")
def test_guests_on_a_kvm_for_payloads_only_are_a_usage_error(run: Run) -> None:
    source = ONE_TEST + "    def test_guest(guest): pass\n"
    result = run(source, "--virt-host=local", hypervisor="")
    assert result.ret == USAGE
    result.stderr.fnmatch_lines(["ERROR: *"])


@needs_kvm
@pytest.mark.usefixtures("software_kvm")
def test_an_unexpected_end_of_a_payload_fails_the_test(run: Run) -> None:
    source = """
        import time

        def test_power_off(payload):
            guest = payload(bytes.fromhex("ba04060000" "66b80034" "66ef" "f4"))
            assert guest.ended.wait(10)

        def test_triple_fault(payload):
            guest = payload(bytes.fromhex("0f0b"))
            assert guest.ended.wait(10)

        def test_in_teardown(payload):
            guest = payload(bytes.fromhex("0f0b"), start=False)
    """
    result = run(source, hypervisor="")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*GuestEnded*triple-fault*"])


@needs_kvm
@pytest.mark.usefixtures("software_kvm")
def test_an_exception_of_a_callback_fails_the_test(run: Run) -> None:
    source = """
        def test_it(payload):
            guest = payload(bytes.fromhex("ba000d0000" "ed" "ebfd"), start=False)
            guest.vm.on_exit("io", lambda exit: 1 // 0)
            guest.start()
            assert guest.ended.wait(10)
    """
    result = run(source, hypervisor="")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*ZeroDivisionError*", "*callback-error: in the test's own*"])


@needs_kvm
@pytest.mark.usefixtures("software_kvm")
def test_samples_of_payload_guests_are_this_hosts(run: Run, pytester: pytest.Pytester) -> None:
    source = """
        def test_it(payload, record_sample, pytestconfig):
            record_sample("exit.test", 1.5, "us", "lower")
            from harness.plugin.session import session_of
            session = session_of(pytestconfig)
            assert session.hosts.host is None
    """
    result = run(source, hypervisor="")
    result.assert_outcomes(passed=1)
    assert len(list(pytester.path.glob("results/**/*.parquet"))) == 1
