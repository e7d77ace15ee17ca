"""The table of outcomes with real guests: pytest sessions inside, on the host that we have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import SSHError
from harness.guest.guest import Guest
from harness.hosts.probe import probe_local
from tests.real.conftest import Inner

USAGE = 4
WITHIN = 1.0  # seconds from a panic's first line to the test's failure
SLACK = 1.0  # seconds, for a machine whose two CPUs have other work as well
ONE_TEST = "def test_it(guest): pass"

ENDS = """
import json, pathlib, threading

def test_panics(shared_guest, ssh):
    stamps, keep = {}, shared_guest.console.add

    def add(time_ns, text):
        if "Kernel panic" in text:
            stamps["panic"] = time_ns
        keep(time_ns, text)

    shared_guest.console.add = add
    try:
        ssh.run("hv-end panic; sleep 20")
    finally:
        stamps["failed"] = shared_guest.timeline.now()
        pathlib.Path("stamps").write_text(json.dumps(stamps))

def test_its_vmm_is_killed(shared_guest, ssh, virt_host):
    assert ssh.run(["cat", "/proc/uptime"]).stdout  # a new guest, alive
    kill = ["kill", "-s", "KILL", str(shared_guest.facts["pid"])]
    threading.Timer(0.5, virt_host.run, [kill]).start()
    ssh.run(["sleep", "20"])

def test_works_again(shared_guest, ssh):
    assert ssh is shared_guest.ssh
    ssh.run(["true"])

def test_its_end_is_overlooked(shared_guest, virt_host):
    virt_host.run(["kill", "-s", "KILL", str(shared_guest.facts["pid"])])
    assert shared_guest.ended.wait(10)

def test_ssh_is_lost_for_good(shared_guest, ssh):
    ssh.run("mount --bind /dev/null /usr/sbin/dropbear; pkill -9 -x dropbear; sleep 20")
"""


def test_an_end_fails_the_test_and_the_guest_is_replaced(
    inner: Inner, pytester: pytest.Pytester
) -> None:
    result = inner(ENDS)
    result.assert_outcomes(failed=4, passed=1)
    said = result.stdout
    said.fnmatch_lines(["*GuestEnded: *panic: Kernel panic - not syncing: sysrq triggered crash*"])
    said.fnmatch_lines(["*GuestEnded: *killed: the VMM process got signal 9 (SIGKILL)*"])
    said.fnmatch_lines(["*signal 9 (SIGKILL) (while the test ran)*"])
    said.fnmatch_lines(["*SSHLost: *the reconnect failed: *does not serve SSH*"])
    stamps = json.loads((pytester.path / "stamps").read_text())
    assert 0 < (stamps["failed"] - stamps["panic"]) / 1e9 < WITHIN + SLACK
    consoles = [path.read_text() for path in pytester.path.glob("results/*/consoles/*.log")]
    assert len(consoles) == 4
    assert sum("Kernel panic" in console for console in consoles) == 1


def test_a_guest_that_does_not_come_up_is_a_setup_error(inner: Inner) -> None:
    result = inner(
        """
        import pytest

        # a line for each of the kernel's some thousand steps: that takes more than the time given
        @pytest.mark.guest(cmdline="ignore_loglevel initcall_debug", boot_timeout=12)
        def test_late(guest): pass

        @pytest.mark.guest(cmdline="rdinit=/none")
        def test_panic(guest): pass
        """
    )
    result.assert_outcomes(errors=2)
    said = result.stdout
    said.fnmatch_lines(
        [
            "*ProvisionError: *stage init, guest *the guest did not reach 'init' within 12 s",
            "*hint: *--guest-boot-timeout",
            "* guest *: last * console lines (all of it: */consoles/*.log)*",
        ]
    )
    said.fnmatch_lines(
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
    # the summary's lines begin with what matters, and are lines
    said.fnmatch_lines(
        [
            "ERROR *::test_late - the guest did not reach 'init' within 12 s",
            "ERROR *::test_panic - panic: Kernel panic *",
        ],
        consecutive=True,
    )


def test_ssh_lost_in_a_command_is_an_error_and_the_next_one_works(standing: Guest) -> None:
    with pytest.raises(SSHError, match="the command was not repeated") as caught:
        standing.ssh.run("echo once >>/tmp/started; kill -9 $PPID; sleep 20")
    assert caught.value.guest == standing.name
    assert standing.ssh.run(["cat", "/tmp/started"]).stdout == "once\n"
    standing.ssh.run(["rm", "/tmp/started"])
    assert not standing.ended.is_set()


def test_ssh_lost_between_commands_is_connected_again(standing: Guest) -> None:
    server = standing.ssh.run("echo $PPID").stdout.strip()
    standing.ssh.popen(f"sleep 0.3; kill -9 {server}").wait(10.0)
    assert standing.ssh.run("echo $PPID").stdout.strip() != server


def test_a_named_local_host_that_cannot_is_a_usage_error(bare: Inner) -> None:
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
