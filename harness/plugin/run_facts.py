"""What is known of a whole run: host, commit, versions, command line."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.git import git
from harness.hypervisors.base import Hypervisor
from harness.plugin.context import RunContext
from harness.results.schema import RunFacts
from harness.urls import without_passwords

DISTRIBUTIONS = ("pytest-hypervisor", "pytest", "paramiko", "pandas", "pyarrow", "numpy", "scipy")


def run_facts(
    context: RunContext, hypervisor: Hypervisor, labels: Iterable[str], commit: str
) -> RunFacts:
    """The facts of a run that starts.

    hypervisor: the first one; its host is the run's. labels: of all hypervisors.
    """
    host, facts = hypervisor.host, hypervisor.host.facts
    return {
        "hypervisor": ", ".join(labels) or hypervisor.name,
        "host": host.name,
        "hostname": facts.hostname,
        "why": host.reason,
        "emulated": host.emulated,
        "backend": facts.backend,
        "fingerprint": facts.fingerprint,
        "cpu_model": facts.cpu_model,
        "cpus": facts.cpus,
        "memory": facts.memory,
        "kernel": facts.kernel,
        "microcode": facts.microcode,
        "governor": facts.governor,
        "smt": facts.smt,
        "mitigations": dict(facts.mitigations),
        "commit": commit,
        "versions": distribution_versions(),
        "command": command_line(context.config),
        "profile": context.settings.profile,
    }


def command_line(config: pytest.Config) -> str:
    """The command line without passwords of URLs."""
    words = [without_passwords(str(word)) for word in config.invocation_params.args]
    return shlex.join(["pytest", *words])


def distribution_versions() -> dict[str, str]:
    """Versions of Python and of DISTRIBUTIONS. Those that are not installed are left out."""
    versions = {"python": sys.version.split()[0]}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def checkout_commit(directory: Path) -> str:
    """The checkout's commit, with "-dirty" when tracked files differ; "" outside of a checkout."""
    try:
        head = git(directory, "rev-parse", "HEAD", timeout=20)
        changed = git(directory, "status", "--porcelain", "--untracked-files=no", timeout=20)
    except HarnessError:
        return ""
    return f"{head}-dirty" if changed else head
