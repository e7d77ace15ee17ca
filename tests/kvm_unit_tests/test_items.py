"""pytest sessions with --virt-kvm-unit-tests on kernels that the tests build."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.results import store
from tests.kvm_unit_tests import kernels

# pytester forgets modules that its inner run imports; numpy and its like bear only one import.
for module in (
    "harness.plugin.kept_guests",
    "harness.plugin.recorder",
    "reports.run",
    "reports.terminal",
):
    importlib.import_module(module)

Session = Callable[..., pytest.RunResult]

ARGUMENTS = """
    mov info, %ebx ; mov 16(%ebx), %esi ; call puts ; say "\\n"
    mov 24(%ebx), %eax ; mov (%eax), %esi ; call puts
    cmpl $1, 20(%ebx) ; jne broken
    say "\\nPASS: arguments\\n"
    leave 0
"""
LIST = """
[passes]
file = pass.flat
groups = good

[fails]
file = fail.flat
groups = bad tasks

[skips]
file = skip.flat

[hangs]
file = hang.flat
timeout = 0.5s

[arguments]
file = arguments.flat
extra_params = -append 'one "two three"'

[two_cpus]
file = smp.flat
smp = 2
groups = good

[long_mode]
file = vmexit.flat
extra_params = -cpu max -m 64

[by_hand]
file = pass.flat
groups = nodefault good

[aborts]
file = abort.flat

[triple_fault]
file = crash.flat

[nested]
file = pass.flat
extra_params = -cpu max,+vmx

[checked]
file = pass.flat
check = /proc/sys/kernel/ostype=Plan9

[checked_well]
file = pass.flat
check = /proc/sys/kernel/ostype=Linux

[other_arch]
file = pass.flat
arch = i386

[missing]
file = missing.flat
"""
SOURCES = {
    "pass": kernels.PASS,
    "fail": kernels.FAIL,
    "skip": kernels.SKIP,
    "hang": kernels.HANG,
    "arguments": ARGUMENTS,
    "smp": kernels.SMP,
    "vmexit": kernels.LONG_MODE,
    "abort": 'say "ABORT: no way on\\n"\nleave 63\n',
    "crash": "lidt 1f ; ud2\n1: .word 0 ; .long 0",
}


@pytest.fixture(scope="session")
def built(kvm_device: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a list and its kernels."""
    folder = tmp_path_factory.mktemp("built")
    for name, source in SOURCES.items():
        kernels.build(source, folder / f"{name}.flat")
    (folder / "unittests.cfg").write_text(LIST)
    return folder


@pytest.fixture
def session(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Session:
    """`session(folder, *arguments)`: pytest with --virt-kvm-unit-tests=folder, in this process."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(pytester.path / "run"))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.delenv("KVM_UNIT_TESTS_ENV", raising=False)
    monkeypatch.setenv("CI", "true")
    plain = ["-p", "no:cacheprovider", "-p", "no:hypothesispytest", "--virt-host=auto"]
    plain += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]

    def run(folder: Path, *arguments: str) -> pytest.RunResult:
        return pytester.runpytest_inprocess(*plain, f"--virt-kvm-unit-tests={folder}", *arguments)

    return run


def test_exit_codes_become_outcomes(session: Session, built: Path) -> None:
    result = session(built, "-rA", "-v")
    result.assert_outcomes(passed=5, failed=5, skipped=5)
    text = result.stdout.str()
    for name in ("passes", "arguments", "two_cpus", "long_mode", "checked_well"):
        assert f"unittests.cfg::{name} PASSED" in text
    result.stdout.fnmatch_lines_random(
        [
            "FAILED *unittests.cfg::fails - Failed: exit status 3*",
            "FAILED *unittests.cfg::hangs - Failed: timeout: the test did not end within 0.5 s*",
            "FAILED *unittests.cfg::aborts - Failed: the test aborted*",
            "FAILED *unittests.cfg::triple_fault - Failed: the test ended by triple-fault*",
            "FAILED *unittests.cfg::missing - Failed: *missing.flat: No such file or directory*",
            "SKIPPED * nothing to see",
            "SKIPPED *nested virtualization (vmx)",
            "SKIPPED * /proc/sys/kernel/ostype is not Plan9 on *: Linux",
            "SKIPPED * i386 only",
            "SKIPPED * it does not run by default: *",
        ]
    )


def test_failure_shows_reports_and_console(session: Session, built: Path) -> None:
    result = session(built, "-k", "fails or hangs")
    result.assert_outcomes(failed=2, deselected=13)
    result.stdout.fnmatch_lines(
        [
            "exit status 3",
            "FAIL: it is not well",
            "SUMMARY: 1 tests, 1 unexpected failures",
            "*reports*",
            "FAIL: it is not well",
            "*last * console lines*",
            "timeout: the test did not end within 0.5 s",
            "*last * console lines*",
            "here it stays",
        ]
    )


def test_arguments_and_environment_reach_the_test(
    session: Session, built: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    session(built, "-k", "arguments", "--guest-artifacts=artifacts").assert_outcomes(
        passed=1, deselected=14
    )
    (console,) = (pytester.path / "artifacts").iterdir()
    assert 'arguments.flat one "two three"' in console.read_text()
    assert "QEMU_ACCEL=kvm" in console.read_text()
    assert "KERNEL_VERSION=" in console.read_text()
    console.unlink()
    (pytester.path / "environment").write_text("MINE=1\0")
    monkeypatch.setenv("KVM_UNIT_TESTS_ENV", str(pytester.path / "environment"))
    session(built, "-k", "arguments", "--guest-artifacts=artifacts").assert_outcomes(
        passed=1, deselected=14
    )
    (console,) = (pytester.path / "artifacts").iterdir()
    assert "MINE=1" in console.read_text()
    assert "QEMU_ACCEL" not in console.read_text()


def test_groups_become_marks(session: Session, built: Path) -> None:
    session(built, "-m", "bad", "--strict-markers").assert_outcomes(failed=1, deselected=14)
    # selecting a group includes tests that do not run by default
    session(built, "-m", "good").assert_outcomes(passed=3, deselected=12)
    session(built, "-m", "nodefault").assert_outcomes(passed=1, deselected=14)


def test_a_test_is_selected_by_name(session: Session, built: Path) -> None:
    session(built, f"{built}/unittests.cfg::by_hand").assert_outcomes(passed=1)


def test_folder_may_be_relative_or_a_link(
    session: Session, built: Path, pytester: pytest.Pytester
) -> None:
    (pytester.path / "link").symlink_to(built)
    for name in (f"../{built.name}", "link", "link/../link/."):
        result = session(Path(name), "-k", "passes")
        result.assert_outcomes(passed=1, deselected=14)


def test_other_tests_run_too_when_named(
    session: Session, built: Path, pytester: pytest.Pytester
) -> None:
    path = pytester.makepyfile("def test_other(): pass")
    session(built, "-k", "passes").assert_outcomes(passed=1, deselected=14)
    both = session(built, "-k", "passes or test_other", str(path))
    both.assert_outcomes(passed=2, deselected=14)


def test_cycles_are_recorded(session: Session, built: Path, pytester: pytest.Pytester) -> None:
    result = session(built, "-k", "long_mode", "--virt-no-report")
    result.assert_outcomes(passed=1, deselected=14)
    (path,) = (pytester.path / "results").rglob("*.parquet")
    _, samples = store.load(path)
    (row,) = samples[samples["metric"] == "kvm_unit_tests.cpuid"].to_dict("records")
    assert (row["unit"], row["better"]) == ("cycles", "lower")
    assert row["value"] > 0
    assert row["item"].endswith("unittests.cfg::long_mode")
    assert (row["suite"], row["test"]) == ("kvm_unit_tests", "kvm-unit-tests::long_mode"), (
        "the folder of a build is not part of a figure's identity"
    )


def test_every_flat_file_is_a_test_without_a_list(
    session: Session, built: Path, tmp_path: Path
) -> None:
    for name in ("pass", "fail"):
        shutil.copy(built / f"{name}.flat", tmp_path)
    result = session(tmp_path, "-v")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*fail.flat::fail FAILED*", "*pass.flat::pass PASSED*"])


def test_architecture_comes_from_config_mak(session: Session, built: Path, tmp_path: Path) -> None:
    folder = tmp_path / "x86"
    shutil.copytree(built, folder)
    (tmp_path / "config.mak").write_text("SRCDIR=.\nARCH=i386\nBITS=32\n")
    session(tmp_path, "-k", "other_arch").assert_outcomes(passed=1, deselected=14)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is neither a unittests.cfg nor a .flat file\nhint: name the folder"),
        ("[a]\nsmp = 1", "unittests.cfg: line 1: the test 'a' has no file"),
    ],
)
def test_unreadable_list_is_an_error(
    session: Session, tmp_path: Path, text: str | None, message: str
) -> None:
    if text:
        (tmp_path / "unittests.cfg").write_text(text)
    result = session(tmp_path)
    assert message in result.stdout.str() + result.stderr.str()
    assert result.ret in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.INTERRUPTED)


def test_kernel_that_cannot_be_loaded_fails(session: Session, tmp_path: Path) -> None:
    (tmp_path / "broken.flat").write_bytes(b"\x7fELF\x01\x01" + bytes(100))
    result = session(tmp_path)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*it has no Multiboot header*"])
