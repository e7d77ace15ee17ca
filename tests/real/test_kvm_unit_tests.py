"""--virt-kvm-unit-tests on a KVM with hardware's rules: CPUs started by IPI, long mode, exits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kvm_unit_tests.kernels import build
from tests.kvm_unit_tests.test_items import LIST, SOURCES
from tests.real.conftest import Inner

pytestmark = pytest.mark.emulated


def test_outcomes_are_those_of_the_exit_codes(inner: Inner, tmp_path: Path) -> None:
    for name, source in SOURCES.items():
        build(source, tmp_path / f"{name}.flat")
    # half a second is little for two emulations on top of each other
    (tmp_path / "unittests.cfg").write_text(LIST.replace("timeout = 0.5s", "timeout = 3s"))
    result = inner("", f"--virt-kvm-unit-tests={tmp_path}", "--virt-host=emulated", "-rA")
    result.assert_outcomes(passed=5, failed=5, skipped=5)
    for name in ("passes", "told", "two_cpus", "long_mode", "checked_well"):
        result.stdout.fnmatch_lines([f"PASSED *unittests.cfg::{name}"])
    result.stdout.fnmatch_lines(["FAILED *::hangs - Failed: timeout: *within 3 s*"])
