"""Two runs side by side: verdicts, what differs around them, and what cannot be compared."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import ResultError
from harness.results import compare as module
from harness.results.compare import compare
from harness.results.select import select
from harness.results.store import runs
from tests.results.nightly import commit, night, nights

FOUR = {"a.same": 10.0, "a.slower": 10.0, "a.faster": 10.0}


def verdicts(found: module.Comparison) -> dict[str, str]:
    return dict(zip(found.table["metric"], found.table["verdict"], strict=True))


def test_verdicts(tmp_path: Path) -> None:
    night(tmp_path, 0, FOUR, boots=10)
    night(tmp_path, 1, {"a.same": 10.0, "a.slower": 12.0, "a.faster": 8.0}, boots=10)
    found = compare(select(tmp_path, "previous"), select(tmp_path, "latest"))
    assert verdicts(found) == {"a.slower": "regressed", "a.faster": "improved", "a.same": "pass"}
    assert found.counts == {"regressed": 1, "improved": 1, "inconclusive": 0, "pass": 1}
    worst = found.table.iloc[0]
    assert worst["metric"] == "a.slower", "what asks for attention comes first"
    assert worst["effect"] == pytest.approx(0.2, abs=0.02)
    assert worst["low"] < worst["effect"] < worst["high"]
    assert (worst["base_boots"], worst["new_n"]) == (10, 10)
    assert found.environment == [("image", "sha256:0000", "sha256:0001")]


def test_more_is_better_turns_it_round(tmp_path: Path) -> None:
    night(tmp_path, 0, {"a.rate": 10.0}, boots=10, better="higher")
    night(tmp_path, 1, {"a.rate": 8.0}, boots=10, better="higher")
    (row,) = compare(select(tmp_path, "previous"), select(tmp_path, "latest")).table.to_dict(
        "records"
    )
    assert row["verdict"] == "regressed"
    assert row["effect"] == pytest.approx(0.2, abs=0.02)


def test_few_boots_and_noise_are_inconclusive(tmp_path: Path) -> None:
    night(tmp_path, 0, {"a.few": 10.0, "a.few_equal": 10.0}, boots=3)
    night(tmp_path, 1, {"a.few": 12.0, "a.few_equal": 10.0}, boots=3)
    found = compare(select(tmp_path, "previous"), select(tmp_path, "latest"))
    assert verdicts(found) == dict.fromkeys(("a.few", "a.few_equal"), "inconclusive")
    assert "too few boots to tell" in found.table["flags"][0]
    night(tmp_path, 2, {"a.wild": 10.0}, boots=6, spread=0.5)
    night(tmp_path, 3, {"a.wild": 10.0}, boots=6, spread=0.5)
    found = compare(select(tmp_path, "previous"), select(tmp_path, "latest"))
    assert verdicts(found) == {"a.wild": "inconclusive"}


def test_one_sample(tmp_path: Path) -> None:
    night(tmp_path, 0, {"a.one": 10.0}, boots=1)
    night(tmp_path, 1, {"a.one": 20.0}, boots=1)
    found = compare(select(tmp_path, "previous"), select(tmp_path, "latest"))
    assert verdicts(found) == {"a.one": "inconclusive"}
    assert found.table["effect"][0] == pytest.approx(1.0, abs=0.1)
    assert "one boot: no interval" in found.table["flags"][0]


def test_what_only_one_side_has(tmp_path: Path) -> None:
    night(tmp_path, 0, {"a.both": 10.0, "a.old": 1.0})
    night(tmp_path, 1, {"a.both": 10.0, "a.new": 1.0})
    found = compare(select(tmp_path, "previous"), select(tmp_path, "latest")).table
    flags = dict(zip(found["metric"], found["flags"], strict=True))
    assert flags["a.old"] == ["not measured in the new run"]
    assert flags["a.new"] == ["not measured in the base"]


def test_equal_builds_twenty_times(tmp_path: Path) -> None:
    """A/A: 20 pairs of equal nights with 30 figures each, of 10 boots, and no alarm; though every
    night is a little slower or faster than the next, as hosts are."""
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
        sides = select(tmp_path, base.stem), select(tmp_path, new.stem)
        for told, history in ((alarms, paths[:20]), (without, [])):
            found = compare(*sides, history)
            told.append(found.counts["regressed"] + found.counts["improved"])
            assert found.has_power
    assert alarms == [0] * 20
    assert sum(without) > 20, "what runs of equals differ by must be known"


def test_a_step_is_seen_through_the_noise_of_runs(tmp_path: Path) -> None:
    random = np.random.default_rng(12)
    for number in range(20):
        level = 10.0 * float(random.lognormal(0, 0.01)) * (1.15 if number == 19 else 1)
        night(tmp_path, number, {"a.it": level}, boots=8)
    found = compare(select(tmp_path, "previous"), select(tmp_path, "latest"), runs(tmp_path))
    assert verdicts(found) == {"a.it": "regressed"}
    assert 0.02 < found.table["floor"][0] < 0.12


def test_so_few_boots_of_so_many_figures_show_nothing(tmp_path: Path) -> None:
    levels = {f"a.n{n}": 10.0 for n in range(30)}
    night(tmp_path, 0, levels, boots=6)
    night(tmp_path, 1, {**levels, "a.n3": 20.0}, boots=6)
    found = compare(select(tmp_path, "previous"), select(tmp_path, "latest"))
    assert verdicts(found)["a.n3"] == "inconclusive"
    assert not found.has_power


def test_what_is_surely_worse_is_no_pass(tmp_path: Path) -> None:
    levels = {f"a.n{n}": 10.0 for n in range(30)}
    night(tmp_path, 0, levels, boots=6, spread=0.001)
    night(tmp_path, 1, {**levels, "a.n3": 10.7}, boots=6, spread=0.001)
    found = compare(select(tmp_path, "previous"), select(tmp_path, "latest"))
    assert verdicts(found)["a.n3"] == "inconclusive"
    assert set(verdicts(found).values()) == {"inconclusive", "pass"}


def test_many_runs_a_side_are_what_repeats(tmp_path: Path) -> None:
    for number in range(10):
        commit_of = "ab" * 20 if number % 2 else "cd" * 20
        night(tmp_path, number, {"a.it": 10.0}, commit=commit_of)
    found = compare(select(tmp_path, "abababab"), select(tmp_path, "cdcdcdcd"))
    assert (found.table["base_boots"][0], found.table["base_n"][0]) == (5, 30)
    night(tmp_path, 10, {"a.it": 10.0}, commit="ef" * 20)
    few = compare(select(tmp_path, "abababab"), select(tmp_path, "efefefef"))
    assert few.table["base_boots"][0] == 30
    assert few.notes == ["boots of several runs are taken together: fewer than 5 runs a side"]


def test_a_run_and_itself(tmp_path: Path) -> None:
    night(tmp_path, 0, FOUR)
    with pytest.raises(ResultError, match="are both 20260301T020000Z-000000"):
        compare(select(tmp_path, "latest"), select(tmp_path, "2026-03-01"))


def test_a_run_that_is_broken_in_the_middle_is_told(tmp_path: Path) -> None:
    paths = [night(tmp_path, number, FOUR, commit="ab" * 20) for number in range(2)]
    data = bytearray(paths[0].read_bytes())
    data[10:400] = bytes(390)
    paths[0].write_bytes(data)
    night(tmp_path, 2, FOUR)
    notes = compare(select(tmp_path, "abababab"), select(tmp_path, "latest")).notes
    assert any(paths[0].stem in note for note in notes)


def test_the_environment_is_told(tmp_path: Path) -> None:
    night(tmp_path, 0, FOUR, kernel="6.1.0-1", mitigations={"meltdown": "PTI", "mds": "no"})
    night(tmp_path, 1, FOUR, kernel="6.1.0-2", mitigations={"meltdown": "off", "mds": "no"})
    found = compare(select(tmp_path, "previous"), select(tmp_path, "latest"))
    assert found.environment[:-1] == [
        ("kernel", "6.1.0-1", "6.1.0-2"),
        ("mitigations: meltdown", "PTI", "off"),
    ]


def test_doubtful_runs_are_told(tmp_path: Path) -> None:
    night(tmp_path, 0, FOUR)
    night(tmp_path, 1, FOUR, complete=False, end="2026-01-01T00:00:00+00:00")
    notes = compare(select(tmp_path, "previous"), select(tmp_path, "latest")).notes
    assert [note.partition(" ")[2] for note in notes] == [
        "is incomplete: its session ended before its time",
        "the clock went back while it ran",
    ]


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"backend": "svm"}, "backends: svm, vmx"),
        ({"cpu_model": "Other"}, "different CPUs"),
        ({"profile": "full"}, "profiles: full, short"),
    ],
)
def test_other_kinds_of_host_are_refused(tmp_path: Path, more: dict[str, Any], what: str) -> None:
    night(tmp_path, 0, FOUR)
    night(tmp_path, 1, FOUR, **more)
    with pytest.raises(ResultError, match=what):
        compare(select(tmp_path, "previous"), select(tmp_path, "latest"))


def test_nothing_in_common(tmp_path: Path) -> None:
    night(tmp_path, 0, {"a.old": 1.0})
    night(tmp_path, 1, {"a.new": 1.0})
    with pytest.raises(ResultError, match="share no figure"):
        compare(select(tmp_path, "previous"), select(tmp_path, "latest"))


# -- which runs are meant ------------------------------------------------------------------------


def test_words_for_runs(tmp_path: Path) -> None:
    paths = nights(tmp_path, [FOUR] * 3)
    names = [path.stem for path in paths]
    assert select(tmp_path, "latest").names == names[2:]
    assert select(tmp_path, "previous").names == names[1:2]
    assert select(tmp_path, names[0]).names == names[:1]
    assert select(tmp_path, names[0][:10]).names == names[:1]
    assert select(tmp_path, "2026-03-02").names == names[1:2]
    assert select(tmp_path, commit(2)).names == names[2:]
    assert select(tmp_path, str(paths[1])).names == names[1:2]


def test_all_runs_of_a_commit(tmp_path: Path) -> None:
    for number in range(3):
        night(tmp_path, number, FOUR, commit="ab" * 20)
    night(tmp_path, 3, FOUR, commit="ab" * 20 + "-dirty")
    assert len(select(tmp_path, "abababab").files) == 3


def test_what_git_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = tmp_path / "repository"
    there.mkdir()

    def git(*words: str) -> str:
        who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        argv = ["git", "-C", str(there), *who, *words]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q", "-b", "trunk")
    git("commit", "-q", "--allow-empty", "-m", "one")
    night(tmp_path, 0, FOUR, commit=git("rev-parse", "HEAD"))
    monkeypatch.chdir(there)
    assert len(select(tmp_path, "trunk").files) == 1


@pytest.mark.parametrize("word", ["2026-04-01", "deadbeef", "no-such-branch", "--help", ""])
def test_no_such_run(tmp_path: Path, word: str) -> None:
    night(tmp_path, 0, FOUR)
    with pytest.raises(ResultError, match="no run that"):
        select(tmp_path, word)


def test_an_empty_store(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="there are no runs at all"):
        select(tmp_path, "latest")


def test_a_start_of_several_names(tmp_path: Path) -> None:
    first = night(tmp_path, 0, FOUR)
    night(tmp_path, 0x100, FOUR, start="2026-03-01T02:00:00+00:00")
    other = first.with_name(first.name.replace("000000.", "000001."))
    other.write_bytes(first.read_bytes())
    with pytest.raises(ResultError, match="begins the names of 2 runs"):
        select(tmp_path, first.stem[:16])
