"""Calls of apt-get, and the packages parsed from its output."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import ImageError
from images.packages import Apt, Deb, exclude_packages, find_kernel_package, parse_file_name
from images.run import require_programs

LISTING = """\
'http://m/pool/d/dash/dash_0.5.12-2_amd64.deb' dash_0.5.12-2_amd64.deb 97000 SHA256:aa
'http://m/pool/b/bind_1%3a9.1_amd64.deb' bind_1%3a9.1_amd64.deb 12 MD5Sum:bb
"""


def fake_apt(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """Put an apt-get first in PATH that logs its arguments, one call a line."""
    log = folder / "calls"
    program = folder / "bin" / "apt-get"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$*" >> {log}\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return log


def test_resolve_parses_apt_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = fake_apt(tmp_path, monkeypatch, f"cat <<'E'\n{LISTING}E")
    debs = Apt(tmp_path / "apt").resolve(["dash", "bind"])
    assert debs == [
        Deb("bind", "1:9.1", "bind_1%3a9.1_amd64.deb"),
        Deb("dash", "0.5.12-2", "dash_0.5.12-2_amd64.deb"),
    ]
    (call,) = log.read_text().splitlines()
    assert call.endswith("-qq install --print-uris bind dash")
    assert f"Dir::State::status={tmp_path}/apt/status" in call
    assert "APT::Install-Recommends=false" in call


def test_preferences_allow_only_debian_packages(tmp_path: Path) -> None:
    Apt(tmp_path)
    debian, others = (tmp_path / "preferences").read_text().strip().split("\n\n")
    assert "release o=Debian" in debian
    assert "Pin-Priority: -1" in others


def test_resolve_refreshes_unusable_lists_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "case $* in *update*) exit 0;; "
        f"*Dir::State::lists=*) cat <<'E'\n{LISTING}E\n;; *) echo no lists >&2; exit 100;; esac"
    )
    log = fake_apt(tmp_path, monkeypatch, script)
    apt = Apt(tmp_path / "apt")
    assert len(apt.resolve(["dash"])) == 2
    assert len(apt.resolve(["dash"])) == 2
    calls = log.read_text().splitlines()
    assert [("update" in call) for call in calls] == [False, True, False, False]


def test_apt_failure_quotes_apt_and_has_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_apt(tmp_path, monkeypatch, "echo 'E: mirror is away' >&2; exit 100")
    with pytest.raises(ImageError, match="mirror is away") as caught:
        Apt(tmp_path / "apt").resolve(["dash"])
    assert "apt-get update" in caught.value.hint


def test_file_names_are_parsed_and_patterns_exclude_packages() -> None:
    deb = parse_file_name("libgmp10_2%3a6.2.1+dfsg1-1.1_amd64.deb")
    assert (deb.name, deb.version) == ("libgmp10", "2:6.2.1+dfsg1-1.1")
    perl = Deb("perl-base", "5", "")
    assert exclude_packages([deb, perl], ["perl*"]) == [deb]


def test_kernel_package_is_not_the_meta_package() -> None:
    real = Deb("linux-image-6.1.0-56-cloud-amd64", "6", "")
    assert find_kernel_package([Deb("linux-image-cloud-amd64", "6", ""), real]) == real
    with pytest.raises(ImageError, match="no kernel"):
        find_kernel_package([Deb("linux-image-cloud-amd64", "6", "")])


def test_missing_programs_are_named_by_their_package(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="genext2fs") as caught:
        require_programs(str(tmp_path))
    assert "libc6-dev" in caught.value.hint
