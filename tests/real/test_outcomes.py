"""The table of outcomes with real guests: inner pytest sessions on the emulated host."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import SSHError
from harness.guest.guest import Guest
from harness.hosts.probe import probe_local
from tests.real.conftest import Inner

USAGE = 4
DETECTION_TIME = 1.0  # seconds from a panic's first line to the test's failure
SLACK = 1.0  # seconds, for a busy machine
ONE_TEST = "def test_it(guest): pass"

ENDS = """
import json, pathlib, threading

def test_panics(shared_guest, ssh):
    stamps, add_line = {}, shared_guest.console.add

    def add(time_ns, text):
        if "Kernel panic" in text:
            stamps["panic"] = time_ns
        add_line(time_ns, text)

    shared_guest.console.add = add
    try:
        ssh.run("hv-end panic; sleep 20")
    finally:
        stamps["failed"] = shared_guest.timeline.now()
        pathlib.Path("stamps").write_text(json.dumps(stamps))

def test_vmm_is_killed(shared_guest, ssh, virt_host):
    assert ssh.run(["cat", "/proc/uptime"]).stdout  # a new guest, alive
    kill = ["kill", "-s", "KILL", str(shared_guest.facts["pid"])]
    threading.Timer(0.5, virt_host.run, [kill]).start()
    ssh.run(["sleep", "20"])

def test_works_again(shared_guest, ssh):
    assert ssh is shared_guest.ssh
    ssh.run(["true"])

def test_end_is_not_noticed(shared_guest, virt_host):
    virt_host.run(["kill", "-s", "KILL", str(shared_guest.facts["pid"])])
    assert shared_guest.ended.wait(10)

def test_ssh_cannot_reconnect(shared_guest, ssh):
    ssh.run("mount --bind /dev/null /usr/sbin/dropbear; pkill -9 -x dropbear; sleep 20")
"""


def test_end_of_a_guest_fails_the_test_and_replaces_the_guest(
    inner: Inner, pytester: pytest.Pytester
) -> None:
    result = inner(ENDS)
    result.assert_outcomes(failed=4, passed=1)
    output = result.stdout
    output.fnmatch_lines(
        ["*GuestEnded: *panic: Kernel panic - not syncing: sysrq triggered crash*"]
    )
    output.fnmatch_lines(["*GuestEnded: *killed: the VMM process got signal 9 (SIGKILL)*"])
    output.fnmatch_lines(["*signal 9 (SIGKILL) (while the test ran)*"])
    output.fnmatch_lines(["*SSHLost: *the reconnect failed: *does not serve SSH*"])
    stamps = json.loads((pytester.path / "stamps").read_text())
    assert 0 < (stamps["failed"] - stamps["panic"]) / 1e9 < DETECTION_TIME + SLACK
    consoles = [path.read_text() for path in pytester.path.glob("results/*/consoles/*.log")]
    assert len(consoles) == 4
    assert sum("Kernel panic" in console for console in consoles) == 1


def test_guest_that_does_not_boot_is_a_setup_error(inner: Inner) -> None:
    result = inner(
        """
        import pytest

        # the kernel prints thousands of lines, which takes longer than the timeout
        @pytest.mark.guest(cmdline="ignore_loglevel initcall_debug", boot_timeout=12)
        def test_late(guest): pass

        @pytest.mark.guest(cmdline="rdinit=/none")
        def test_panic(guest): pass
        """
    )
    result.assert_outcomes(errors=2)
    output = result.stdout
    output.fnmatch_lines(
        [
            "*ProvisionError: *stage init, guest *the guest did not reach 'init' within 12 s",
            "*hint: *--guest-boot-timeout",
            "* guest *: last * console lines (all of it: */consoles/*.log)*",
        ]
    )
    output.fnmatch_lines(
        [
            "*GuestEnded: *stage init, guest *panic: Kernel panic *while it booted*",
            "* guest *: last * console lines*",
            "*Kernel panic*",
            "*boot timeline*",
            "create *0.000 s",
            "kernel *s",
            "init *not reached",
        ]
    )
    # the summary has one line for each error, which begins with the cause
    output.fnmatch_lines(
        [
            "ERROR *::test_late - the guest did not reach 'init' within 12 s",
            "ERROR *::test_panic - panic: Kernel panic *",
        ],
        consecutive=True,
    )


def test_ssh_lost_in_a_command_is_an_error_and_the_next_command_works(real_guest: Guest) -> None:
    with pytest.raises(SSHError, match="the command was not repeated") as caught:
        real_guest.ssh.run("echo once >>/tmp/started; kill -9 $PPID; sleep 20")
    assert caught.value.guest == real_guest.name
    assert real_guest.ssh.run(["cat", "/tmp/started"]).stdout == "once\n"
    real_guest.ssh.run(["rm", "/tmp/started"])
    assert not real_guest.ended.is_set()


def test_ssh_lost_between_commands_reconnects(real_guest: Guest) -> None:
    server = real_guest.ssh.run("echo $PPID").stdout.strip()
    real_guest.ssh.popen(f"sleep 0.3; kill -9 {server}").wait(10.0)
    assert real_guest.ssh.run("echo $PPID").stdout.strip() != server


def test_explicit_unusable_local_host_is_a_usage_error(bare: Inner) -> None:
    verdict = probe_local()
    if verdict.usable:
        pytest.skip("this machine's KVM runs guests")
    for hypervisor in ("kvm", "auto"):
        result = bare(ONE_TEST, f"--hypervisor={hypervisor}", "--virt-host=local")
        assert result.ret == USAGE
        result.stderr.fnmatch_lines(
            [f"ERROR: *--virt-host=local: *{verdict.cause}", "hint: *; or use --virt-host=emulated"]
        )


def test_auto_with_nothing_usable_skips(
    bare: Inner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if probe_local().usable:
        pytest.skip("this machine's KVM runs guests")
    monkeypatch.setenv("PATH", str(tmp_path))
    result = bare(f"{ONE_TEST}\ndef test_more(shared_guest): pass", "-rs")
    result.assert_outcomes(skipped=2)
    assert result.ret == 0
    reasons = {line.split(": ", 1)[1] for line in result.outlines if line.startswith("SKIPPED")}
    assert reasons == {
        "no hypervisor is usable here: qemu-system-x86_64 is not installed; "
        "hint: apt install qemu-system-x86"
    }
