"""The history of figures: what is called what, and what people say of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import ResultError
from harness.results.acknowledged import acknowledge, acknowledgements
from harness.results.changes import LEAST
from harness.results.track import FRESH, ID, Track, track
from tests.results.nightly import commit, night, nights

STEP = 30


def history(store: Path, after: int = 8) -> Track:
    """40 nights or so: one figure gets worse at night STEP, one better, one stays, one is wild."""
    for number in range(STEP + after):
        late = number >= STEP
        levels = {"a.same": 10.0, "a.slower": 11.0 if late else 10.0}
        levels["a.faster"] = 9.0 if late else 10.0
        night(store, number, levels, boots=3)
    return track(store)


def verdicts(found: Track) -> dict[str, str]:
    return dict(zip(found.series["metric"], found.series["verdict"], strict=True))


def test_verdicts(tmp_path: Path) -> None:
    found = history(tmp_path)
    assert verdicts(found) == {"a.slower": "regressed", "a.faster": "improved", "a.same": "pass"}
    assert found.counts == {"regressed": 1, "improved": 1, "inconclusive": 0, "pass": 1}
    worst = found.series.iloc[0]
    assert worst["metric"] == "a.slower"
    assert worst["effect"] == pytest.approx(0.1, abs=0.02)
    assert (worst["before_commit"], worst["commit"]) == (commit(STEP - 1), commit(STEP))
    assert worst["level"] == pytest.approx(11.0, rel=0.02)
    assert worst["n"] == STEP + 8
    assert 0 < worst["cv"] < 0.02
    assert len(found.points) == 3 * (STEP + 8)
    change = found.changes[found.changes["metric"] == "a.slower"].iloc[0]
    runs = [run["run"] for run in found.runs]
    assert (change["before"], change["run"]) == (runs[STEP - 1], runs[STEP])
    assert change["found"] == runs[STEP + LEAST - 1]
    assert change["environment"] == [("image", f"sha256:{STEP - 1:04x}", f"sha256:{STEP:04x}")]


def test_the_environment_of_a_change(tmp_path: Path) -> None:
    for number in range(STEP + 8):
        late = number >= STEP
        kernel = "6.1.0-2" if late else "6.1.0-1"
        night(tmp_path, number, {"a.slower": 12.0 if late else 10.0}, kernel=kernel)
    assert ("kernel", "6.1.0-1", "6.1.0-2") in track(tmp_path).changes["environment"][0]


def test_a_short_history_is_inconclusive(tmp_path: Path) -> None:
    nights(tmp_path, [{"a.new": 10.0}] * 5)
    found = track(tmp_path)
    assert verdicts(found) == {"a.new": "inconclusive"}
    assert found.series["flags"][0] == ["too few runs (5): judged from 20"]


def test_a_noisy_one_too(tmp_path: Path) -> None:
    nights(tmp_path, [{"a.wild": 10.0}] * 30, spread=0.5, boots=1)
    found = track(tmp_path)
    assert verdicts(found) == {"a.wild": "inconclusive"}
    assert "a step of 10% would not be seen" in found.series["flags"][0][0]


def test_what_is_acknowledged_is_no_regression(tmp_path: Path) -> None:
    worst = history(tmp_path).series.iloc[0]
    acknowledge(tmp_path, worst[ID], worst["run"], "the price of a mitigation")
    found = track(tmp_path)
    assert verdicts(found)["a.slower"] == "pass"
    told = dict(zip(found.changes["metric"], found.changes["acknowledged"], strict=True))
    assert told == {"a.slower": "the price of a mitigation", "a.faster": ""}


def test_a_reset_begins_anew(tmp_path: Path) -> None:
    found = history(tmp_path)
    worst = found.series.iloc[0]
    acknowledge(tmp_path, worst[ID], found.runs[-1]["run"], "measured in a new way", reset=True)
    night(tmp_path, STEP + 8, {"a.slower": 11.0}, boots=3)
    again = track(tmp_path)
    mine = again.series[again.series["metric"] == "a.slower"].iloc[0]
    assert (mine["verdict"], mine["n"]) == ("inconclusive", 1)
    assert "a.slower" not in set(again.changes["metric"])


def test_what_went_back_is_a_pass(tmp_path: Path) -> None:
    for number in range(70):
        night(tmp_path, number, {"a.it": 12.0 if 30 <= number < 45 else 10.0}, boots=3)
    found = track(tmp_path)
    assert [row["effect"] > 0 for row in found.changes.to_dict("records")] == [True, False]
    assert verdicts(found) == {"a.it": "pass"}


def test_hosts_that_run_no_more_are_left_out(tmp_path: Path) -> None:
    nights(tmp_path, [{"a.it": 10.0}] * 3, cpu_model="Another")
    for number in range(3, 3 + FRESH):
        night(tmp_path, number, {"a.it": 10.0})
    found = track(tmp_path)
    assert len(found.runs) == FRESH
    assert found.notes == ["3 runs of other CPUs, backends or profiles are left out"]


def test_a_foreign_run_hides_nothing(tmp_path: Path) -> None:
    """A laptop that writes into the store of the nightly, or one run of another profile."""
    history(tmp_path)
    night(tmp_path, STEP + 8, {"a.slower": 5.0}, cpu_model="Laptop")
    night(tmp_path, STEP + 9, {"a.slower": 50.0}, profile="full")
    found = track(tmp_path)
    assert found.counts["regressed"] == 1
    assert found.series["metric"][0] == "a.slower"
    assert "QEMU TCG CPU" in found.series["kind"][0], "which of the hosts is said"
    assert list(found.series["metric"]).count("a.slower") == 3


def test_runs_of_changed_checkouts_do_not_count(tmp_path: Path) -> None:
    history(tmp_path, after=0)
    for number in range(STEP, STEP + 8):
        night(tmp_path, number, {"a.same": 99.0}, commit="c0ffee0-dirty")
    found = track(tmp_path)
    assert found.counts["regressed"] == 0
    assert found.notes == ["8 runs of changed checkouts (-dirty) are left out"]
    nights(tmp_path / "only", [{"a.it": 1.0}] * 2, commit="c0ffee0-dirty")
    assert len(track(tmp_path / "only").runs) == 2, "where there are no others"


def test_a_regression_does_not_clear_by_itself(tmp_path: Path) -> None:
    for number in range(2 * STEP + 40):
        night(tmp_path, number, {"a.it": 11.0 if number >= STEP else 10.0}, boots=2)
    found = track(tmp_path, nights=30)
    assert verdicts(found) == {"a.it": "regressed"}
    assert len(found.runs) == 30
    assert len(found.points) == 30
    assert len(found.changes) == 1, "its change is told, though it is older"


def test_half_of_the_way_back_is_not_back(tmp_path: Path) -> None:
    for number in range(70):
        level = 10.0 if number < 30 else (13.0 if number < 50 else 12.0)
        night(tmp_path, number, {"a.it": level}, boots=3)
    found = track(tmp_path)
    assert [row["effect"] > 0 for row in found.changes.to_dict("records")] == [True, False]
    assert verdicts(found) == {"a.it": "regressed"}


def test_what_is_no_longer_measured_is_no_pass(tmp_path: Path) -> None:
    for number in range(40):
        night(tmp_path, number, {"a.other": 1.0, **({"a.it": 10.0} if number < 30 else {})})
    found = track(tmp_path)
    assert verdicts(found) == {"a.it": "inconclusive", "a.other": "pass"}
    assert found.series["flags"][0] == [f"not measured in the newest {LEAST} runs"]


def test_only_so_many_nights(tmp_path: Path) -> None:
    nights(tmp_path, [{"a.it": 10.0}] * 6)
    assert len(track(tmp_path, nights=4).runs) == 4


def test_a_broken_run_is_told_and_passed_over(tmp_path: Path) -> None:
    paths = nights(tmp_path, [{"a.it": 10.0}] * 3)
    paths[1].write_bytes(paths[1].read_bytes()[:100])
    found = track(tmp_path)
    assert len(found.runs) == 2
    assert len(found.notes) == 1
    assert paths[1].stem in found.notes[0]


def test_nothing_to_track(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="holds no runs"):
        track(tmp_path)
    night(tmp_path, 0, {"a.it": 10.0}, better="none")
    with pytest.raises(ResultError, match="no figure that can become better or worse"):
        track(tmp_path)


def test_series_keep_their_names(tmp_path: Path) -> None:
    nights(tmp_path / "one", [{"a.it": 10.0}] * 2)
    nights(tmp_path / "other", [{"a.it": 99.0, "a.more": 1.0}] * 3)
    one, other = (track(tmp_path / name).series for name in ("one", "other"))
    assert one[ID][0] == other[other["metric"] == "a.it"][ID].iloc[0]


def test_the_newest_saying_counts(tmp_path: Path) -> None:
    acknowledge(tmp_path, "feed", "run", "first")
    acknowledge(tmp_path, "feed", "run", "second")
    said = sorted((tmp_path / "acknowledged").glob("*.json"))
    assert len(said) == 2
    assert acknowledgements(tmp_path).why("feed", "run") == "second"
    assert acknowledgements(tmp_path).why("feed", "other") == ""


@pytest.mark.parametrize("text", ["", "{", "[]", json.dumps({"series": "x"})])
def test_a_broken_saying(tmp_path: Path, text: str) -> None:
    nights(tmp_path, [{"a.it": 10.0}])
    (tmp_path / "acknowledged").mkdir()
    (tmp_path / "acknowledged" / "20260101T000000Z-000000.json").write_text(text)
    (note,) = track(tmp_path).notes
    assert "20260101T000000Z-000000.json says nothing that can be read" in note
