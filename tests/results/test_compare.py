"""Comparison of runs: verdicts, environment, selection of runs, refused comparisons."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import ResultError
from harness.results import compare as module
from harness.results.compare import compare
from harness.results.selection import select_runs
from harness.results.store import runs
from tests.results.nightly_store import commit, night, nights

FOUR = {"a.same": 10.0, "a.slower": 10.0, "a.faster": 10.0}


def verdicts(comparison: module.Comparison) -> dict[str, str]:
    return dict(zip(comparison.table["metric"], comparison.table["verdict"], strict=True))


def test_verdicts(tmp_path: Path) -> None:
    night(tmp_path, 0, FOUR, boots=10)
    night(tmp_path, 1, {"a.same": 10.0, "a.slower": 12.0, "a.faster": 8.0}, boots=10)
    comparison = compare(select_runs(tmp_path, "previous"), select_runs(tmp_path, "latest"))
    assert verdicts(comparison) == {
        "a.slower": "regressed",
        "a.faster": "improved",
        "a.same": "pass",
    }
    assert comparison.counts == {"regressed": 1, "improved": 1, "inconclusive": 0, "pass": 1}
    worst = comparison.table.iloc[0]
    assert worst["metric"] == "a.slower", "what asks for attention comes first"
    assert worst["effect"] == pytest.approx(0.2, abs=0.02)
    assert worst["low"] < worst["effect"] < worst["high"]
    assert (worst["base_boots"], worst["new_n"]) == (10, 10)
    assert comparison.environment == [("image", "sha256:0000", "sha256:0001")]


def test_higher_is_better_reverses_the_sign(tmp_path: Path) -> None:
    night(tmp_path, 0, {"a.rate": 10.0}, boots=10, better="higher")
    night(tmp_path, 1, {"a.rate": 8.0}, boots=10, better="higher")
    (row,) = compare(
        select_runs(tmp_path, "previous"), select_runs(tmp_path, "latest")
    ).table.to_dict("records")
    assert row["verdict"] == "regressed"
    assert row["effect"] == pytest.approx(0.2, abs=0.02)


def test_few_boots_and_noise_are_inconclusive(tmp_path: Path) -> None:
    night(tmp_path, 0, {"a.few": 10.0, "a.few_equal": 10.0}, boots=3)
    night(tmp_path, 1, {"a.few": 12.0, "a.few_equal": 10.0}, boots=3)
    comparison = compare(select_runs(tmp_path, "previous"), select_runs(tmp_path, "latest"))
    assert verdicts(comparison) == dict.fromkeys(("a.few", "a.few_equal"), "inconclusive")
    assert "too few boots for a test" in comparison.table["flags"][0]
    night(tmp_path, 2, {"a.wild": 10.0}, boots=6, spread=0.5)
    night(tmp_path, 3, {"a.wild": 10.0}, boots=6, spread=0.5)
    comparison = compare(select_runs(tmp_path, "previous"), select_runs(tmp_path, "latest"))
    assert verdicts(comparison) == {"a.wild": "inconclusive"}


def test_one_sample(tmp_path: Path) -> None:
    night(tmp_path, 0, {"a.one": 10.0}, boots=1)
    night(tmp_path, 1, {"a.one": 20.0}, boots=1)
    comparison = compare(select_runs(tmp_path, "previous"), select_runs(tmp_path, "latest"))
    assert verdicts(comparison) == {"a.one": "inconclusive"}
    assert comparison.table["effect"][0] == pytest.approx(1.0, abs=0.1)
    assert "one boot: no interval" in comparison.table["flags"][0]


def test_figure_of_one_side_is_not_compared(tmp_path: Path) -> None:
    night(tmp_path, 0, {"a.both": 10.0, "a.old": 1.0})
    night(tmp_path, 1, {"a.both": 10.0, "a.new": 1.0})
    comparison = compare(select_runs(tmp_path, "previous"), select_runs(tmp_path, "latest"))
    assert comparison.counts["not compared"] == 2
    assert comparison.counts["inconclusive"] + comparison.counts["pass"] == 1
    assert comparison.table["metric"].iloc[0] == "a.both", "the others come last"
    flags = dict(zip(comparison.table["metric"], comparison.table["flags"], strict=True))
    assert flags["a.old"] == ["not measured in the new run"]
    assert flags["a.new"] == ["not measured in the base"]


@pytest.mark.slow
def test_equal_builds_rarely_regress(tmp_path: Path) -> None:
    """A/A test: 20 pairs of equal nights with 30 figures and 10 boots give no alarm.

    The level of each night varies, as on real hosts.
    """
    random = np.random.default_rng(11)
    paths = [
        night(
            tmp_path,
            number,
            {f"a.n{n}": (10.0 + n) * float(random.lognormal(0, 0.02)) for n in range(30)},
            boots=10,
            spread=0.01,
        )
        for number in range(60)
    ]
    alarms: list[int] = []
    without: list[int] = []
    for base, new in zip(paths[20::2], paths[21::2], strict=True):
        sides = select_runs(tmp_path, base.stem), select_runs(tmp_path, new.stem)
        for counts, history in ((alarms, paths[:20]), (without, [])):
            comparison = compare(*sides, history)
            counts.append(comparison.counts["regressed"] + comparison.counts["improved"])
            assert comparison.has_power
    assert alarms == [0] * 20
    assert sum(without) > 20, "without the noise floor, equal runs differ"


def test_step_above_noise_between_runs_is_detected(tmp_path: Path) -> None:
    random = np.random.default_rng(12)
    for number in range(20):
        level = 10.0 * float(random.lognormal(0, 0.01)) * (1.15 if number == 19 else 1)
        night(tmp_path, number, {"a.it": level}, boots=8)
    comparison = compare(
        select_runs(tmp_path, "previous"), select_runs(tmp_path, "latest"), runs(tmp_path)
    )
    assert verdicts(comparison) == {"a.it": "regressed"}
    assert 0.02 < comparison.table["floor"][0] < 0.12


def test_few_boots_have_no_power_for_many_figures(tmp_path: Path) -> None:
    levels = {f"a.n{n}": 10.0 for n in range(30)}
    night(tmp_path, 0, levels, boots=6)
    night(tmp_path, 1, {**levels, "a.n3": 20.0}, boots=6)
    comparison = compare(select_runs(tmp_path, "previous"), select_runs(tmp_path, "latest"))
    assert verdicts(comparison)["a.n3"] == "inconclusive"
    assert not comparison.has_power


def test_interval_above_min_effect_is_no_pass(tmp_path: Path) -> None:
    levels = {f"a.n{n}": 10.0 for n in range(30)}
    night(tmp_path, 0, levels, boots=6, spread=0.001)
    night(tmp_path, 1, {**levels, "a.n3": 10.7}, boots=6, spread=0.001)
    comparison = compare(select_runs(tmp_path, "previous"), select_runs(tmp_path, "latest"))
    assert verdicts(comparison)["a.n3"] == "inconclusive"
    assert set(verdicts(comparison).values()) == {"inconclusive", "pass"}


def test_many_runs_become_the_unit_of_replication(tmp_path: Path) -> None:
    for number in range(10):
        commit_of = "ab" * 20 if number % 2 else "cd" * 20
        night(tmp_path, number, {"a.it": 10.0}, commit=commit_of)
    comparison = compare(select_runs(tmp_path, "abababab"), select_runs(tmp_path, "cdcdcdcd"))
    assert (comparison.table["base_boots"][0], comparison.table["base_n"][0]) == (5, 30)
    night(tmp_path, 10, {"a.it": 10.0}, commit="ef" * 20)
    few = compare(select_runs(tmp_path, "abababab"), select_runs(tmp_path, "efefefef"))
    assert few.table["base_boots"][0] == 30
    assert few.notes == ["boots of several runs are pooled: a side has fewer than 5 runs"]


def test_comparison_of_a_run_with_itself_is_refused(tmp_path: Path) -> None:
    night(tmp_path, 0, FOUR)
    with pytest.raises(ResultError, match="are both 20260301T020000Z-000000"):
        compare(select_runs(tmp_path, "latest"), select_runs(tmp_path, "2026-03-01"))


def test_damaged_run_is_noted(tmp_path: Path) -> None:
    paths = [night(tmp_path, number, FOUR, commit="ab" * 20) for number in range(2)]
    data = bytearray(paths[0].read_bytes())
    data[10:400] = bytes(390)
    paths[0].write_bytes(data)
    night(tmp_path, 2, FOUR)
    notes = compare(select_runs(tmp_path, "abababab"), select_runs(tmp_path, "latest")).notes
    assert any(paths[0].stem in note for note in notes)


def test_environment_differences_are_listed(tmp_path: Path) -> None:
    night(tmp_path, 0, FOUR, kernel="6.1.0-1", mitigations={"meltdown": "PTI", "mds": "no"})
    night(tmp_path, 1, FOUR, kernel="6.1.0-2", mitigations={"meltdown": "off", "mds": "no"})
    comparison = compare(select_runs(tmp_path, "previous"), select_runs(tmp_path, "latest"))
    assert comparison.environment[:-1] == [
        ("kernel", "6.1.0-1", "6.1.0-2"),
        ("mitigations: meltdown", "PTI", "off"),
    ]


def test_caveats_are_noted(tmp_path: Path) -> None:
    night(tmp_path, 0, FOUR)
    night(tmp_path, 1, FOUR, complete=False, end="2026-01-01T00:00:00+00:00")
    notes = compare(select_runs(tmp_path, "previous"), select_runs(tmp_path, "latest")).notes
    assert [note.partition(" ")[2] for note in notes] == [
        "is incomplete: its session did not end normally",
        "the clock went back during the run",
    ]


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"backend": "svm"}, "backends: svm, vmx"),
        ({"cpu_model": "Other"}, "different CPUs"),
        ({"profile": "full"}, "profiles: full, short"),
    ],
)
def test_other_configurations_are_refused(tmp_path: Path, more: dict[str, Any], what: str) -> None:
    night(tmp_path, 0, FOUR)
    night(tmp_path, 1, FOUR, **more)
    with pytest.raises(ResultError, match=what):
        compare(select_runs(tmp_path, "previous"), select_runs(tmp_path, "latest"))


def test_comparison_without_common_figure_is_refused(tmp_path: Path) -> None:
    night(tmp_path, 0, {"a.old": 1.0})
    night(tmp_path, 1, {"a.new": 1.0})
    with pytest.raises(ResultError, match="have no figure in common"):
        compare(select_runs(tmp_path, "previous"), select_runs(tmp_path, "latest"))


# -- selection of runs ---------------------------------------------------------------------------


def test_selectors_match_runs(tmp_path: Path) -> None:
    paths = nights(tmp_path, [FOUR] * 3)
    names = [path.stem for path in paths]
    assert select_runs(tmp_path, "latest").names == names[2:]
    assert select_runs(tmp_path, "previous").names == names[1:2]
    assert select_runs(tmp_path, names[0]).names == names[:1]
    assert select_runs(tmp_path, names[0][:10]).names == names[:1]
    assert select_runs(tmp_path, "2026-03-02").names == names[1:2]
    assert select_runs(tmp_path, commit(2)).names == names[2:]
    assert select_runs(tmp_path, str(paths[1])).names == names[1:2]


def test_commit_selects_all_its_clean_runs(tmp_path: Path) -> None:
    for number in range(3):
        night(tmp_path, number, FOUR, commit="ab" * 20)
    night(tmp_path, 3, FOUR, commit="ab" * 20 + "-dirty")
    assert len(select_runs(tmp_path, "abababab").files) == 3


def test_git_revision_selects_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()

    def git(*words: str) -> str:
        who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        argv = ["git", "-C", str(repository), *who, *words]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q", "-b", "trunk")
    git("commit", "-q", "--allow-empty", "-m", "one")
    night(tmp_path, 0, FOUR, commit=git("rev-parse", "HEAD"))
    monkeypatch.chdir(repository)
    assert len(select_runs(tmp_path, "trunk").files) == 1


@pytest.mark.parametrize("word", ["2026-04-01", "deadbeef", "no-such-branch", "--help", ""])
def test_unknown_selector_is_an_error(tmp_path: Path, word: str) -> None:
    night(tmp_path, 0, FOUR)
    with pytest.raises(ResultError, match="no run that matches"):
        select_runs(tmp_path, word)


def test_empty_store_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="the store is empty"):
        select_runs(tmp_path, "latest")


def test_ambiguous_prefix_is_an_error(tmp_path: Path) -> None:
    first = night(tmp_path, 0, FOUR)
    night(tmp_path, 0x100, FOUR, start="2026-03-01T02:00:00+00:00")
    other = first.with_name(first.name.replace("000000.", "000001."))
    other.write_bytes(first.read_bytes())
    with pytest.raises(ResultError, match="begins the names of 2 runs"):
        select_runs(tmp_path, first.stem[:16])
