"""--virt-kvm-unit-tests on the emulated host: CPUs started by IPI, long mode, exits."""

from __future__ import annotations

from pathlib import Path

from tests.kvm_unit_tests.kernels import build
from tests.kvm_unit_tests.test_items import LIST, SOURCES
from tests.real.conftest import Inner


def test_exit_codes_become_outcomes(inner: Inner, tmp_path: Path) -> None:
    for name, source in SOURCES.items():
        build(source, tmp_path / f"{name}.flat")
    # 0.5 s is too short under two layers of emulation
    (tmp_path / "unittests.cfg").write_text(LIST.replace("timeout = 0.5s", "timeout = 3s"))
    result = inner("", f"--virt-kvm-unit-tests={tmp_path}", "--virt-host=emulated", "-rA")
    result.assert_outcomes(passed=5, failed=5, skipped=5)
    for name in ("passes", "arguments", "two_cpus", "long_mode", "checked_well"):
        result.stdout.fnmatch_lines([f"PASSED *unittests.cfg::{name}"])
    result.stdout.fnmatch_lines(["FAILED *::hangs - Failed: timeout: *within 3 s*"])
