from __future__ import annotations

import os
import shutil

import pytest


@pytest.fixture(scope="session")
def kvm_device() -> str:
    """/dev/kvm of this machine: real, or one that runs flat payloads only."""
    path = "/dev/kvm"
    if not os.access(path, os.R_OK | os.W_OK):
        pytest.skip(f"{path} is not there or not ours to open")
    for program in ("as", "ld", "objcopy"):
        if not shutil.which(program):
            pytest.skip(f"no {program} to build a payload with (binutils)")
    return path
