"""The history of figures: verdicts and acknowledgements."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import ResultError
from harness.results.acknowledgements import acknowledge, load_acknowledgements
from harness.results.change_points import MIN_AFTER
from harness.results.history import ID, RECENT, History, load_history
from tests.results.nightly_store import commit, night, nights

STEP = 30


def write_history(store: Path, after: int = 8) -> History:
    """About 40 nights: one figure regresses at night STEP, one improves, one stays."""
    for number in range(STEP + after):
        late = number >= STEP
        levels = {"a.same": 10.0, "a.slower": 11.0 if late else 10.0}
        levels["a.faster"] = 9.0 if late else 10.0
        night(store, number, levels, boots=3)
    return load_history(store)


def verdicts(tracked: History) -> dict[str, str]:
    return dict(zip(tracked.series["metric"], tracked.series["verdict"], strict=True))


def test_verdicts(tmp_path: Path) -> None:
    tracked = write_history(tmp_path)
    assert verdicts(tracked) == {"a.slower": "regressed", "a.faster": "improved", "a.same": "pass"}
    assert tracked.counts == {"regressed": 1, "improved": 1, "inconclusive": 0, "pass": 1}
    worst = tracked.series.iloc[0]
    assert worst["metric"] == "a.slower"
    assert worst["effect"] == pytest.approx(0.1, abs=0.02)
    assert (worst["previous_commit"], worst["commit"]) == (commit(STEP - 1), commit(STEP))
    assert worst["level"] == pytest.approx(11.0, rel=0.02)
    assert worst["n"] == STEP + 8
    assert 0 < worst["cv"] < 0.02
    assert len(tracked.points) == 3 * (STEP + 8)
    change = tracked.changes[tracked.changes["metric"] == "a.slower"].iloc[0]
    runs = [run["run"] for run in tracked.runs]
    assert (change["previous_run"], change["run"]) == (runs[STEP - 1], runs[STEP])
    assert change["detected"] == runs[STEP + MIN_AFTER - 1]
    assert change["environment"] == [("image", f"sha256:{STEP - 1:04x}", f"sha256:{STEP:04x}")]


def test_change_lists_environment_differences(tmp_path: Path) -> None:
    for number in range(STEP + 8):
        late = number >= STEP
        kernel = "6.1.0-2" if late else "6.1.0-1"
        night(tmp_path, number, {"a.slower": 12.0 if late else 10.0}, kernel=kernel)
    assert ("kernel", "6.1.0-1", "6.1.0-2") in load_history(tmp_path).changes["environment"][0]


def test_short_series_is_inconclusive(tmp_path: Path) -> None:
    nights(tmp_path, [{"a.new": 10.0}] * 5)
    tracked = load_history(tmp_path)
    assert verdicts(tracked) == {"a.new": "inconclusive"}
    assert tracked.series["flags"][0] == ["too few runs (5): a verdict needs 20"]


def test_noisy_series_is_inconclusive(tmp_path: Path) -> None:
    nights(tmp_path, [{"a.wild": 10.0}] * 30, spread=0.5, boots=1)
    tracked = load_history(tmp_path)
    assert verdicts(tracked) == {"a.wild": "inconclusive"}
    assert "hides a step of 10%" in tracked.series["flags"][0][0]


@pytest.mark.parametrize(("every", "verdict"), [(100, "pass"), (13, "pass"), (4, "inconclusive")])
def test_count_is_as_noisy_as_it_often_differs(tmp_path: Path, every: int, verdict: str) -> None:
    """Its median absolute deviation is 0."""
    levels = [{"a.count": 3.0 if number % every == every - 1 else 4.0} for number in range(40)]
    nights(tmp_path, levels, spread=0.0, boots=1, better="higher")
    assert verdicts(load_history(tmp_path)) == {"a.count": verdict}


def test_acknowledged_change_is_no_regression(tmp_path: Path) -> None:
    worst = write_history(tmp_path).series.iloc[0]
    acknowledge(tmp_path, worst[ID], worst["run"], "the price of a mitigation")
    tracked = load_history(tmp_path)
    assert verdicts(tracked)["a.slower"] == "pass"
    by_name = dict(zip(tracked.changes["metric"], tracked.changes["acknowledged"], strict=True))
    assert by_name == {"a.slower": "the price of a mitigation", "a.faster": ""}


def test_reset_restarts_the_series(tmp_path: Path) -> None:
    tracked = write_history(tmp_path)
    worst = tracked.series.iloc[0]
    acknowledge(tmp_path, worst[ID], tracked.runs[-1]["run"], "measured in a new way", reset=True)
    night(tmp_path, STEP + 8, {"a.slower": 11.0}, boots=3)
    again = load_history(tmp_path)
    mine = again.series[again.series["metric"] == "a.slower"].iloc[0]
    assert (mine["verdict"], mine["n"]) == ("inconclusive", 1)
    assert "a.slower" not in set(again.changes["metric"])


def test_recovered_level_passes(tmp_path: Path) -> None:
    for number in range(70):
        night(tmp_path, number, {"a.it": 12.0 if 30 <= number < 45 else 10.0}, boots=3)
    tracked = load_history(tmp_path)
    assert [row["effect"] > 0 for row in tracked.changes.to_dict("records")] == [True, False]
    assert verdicts(tracked) == {"a.it": "pass"}


def test_unused_configurations_are_excluded(tmp_path: Path) -> None:
    nights(tmp_path, [{"a.it": 10.0}] * 3, cpu_model="Another")
    for number in range(3, 3 + RECENT):
        night(tmp_path, number, {"a.it": 10.0})
    tracked = load_history(tmp_path)
    assert len(tracked.runs) == RECENT
    assert tracked.notes == ["3 runs with other CPUs, backends or profiles are excluded"]


def test_run_of_other_configuration_hides_no_regression(tmp_path: Path) -> None:
    """A laptop writes into the nightly store, and one run has another profile."""
    write_history(tmp_path)
    night(tmp_path, STEP + 8, {"a.slower": 5.0}, cpu_model="Laptop")
    night(tmp_path, STEP + 9, {"a.slower": 50.0}, profile="full")
    tracked = load_history(tmp_path)
    assert tracked.counts["regressed"] == 1
    assert tracked.series["metric"][0] == "a.slower"
    assert "QEMU TCG CPU" in tracked.series["configuration"][0], "the configuration is named"
    assert list(tracked.series["metric"]).count("a.slower") == 3


def test_dirty_runs_are_excluded(tmp_path: Path) -> None:
    write_history(tmp_path, after=0)
    for number in range(STEP, STEP + 8):
        night(tmp_path, number, {"a.same": 99.0}, commit="c0ffee0-dirty")
    tracked = load_history(tmp_path)
    assert tracked.counts["regressed"] == 0
    assert tracked.notes == ["8 runs of modified checkouts (-dirty) are excluded"]
    nights(tmp_path / "only", [{"a.it": 1.0}] * 2, commit="c0ffee0-dirty")
    assert len(load_history(tmp_path / "only").runs) == 2, "dirty runs count without clean ones"


def test_regression_persists_until_acknowledged(tmp_path: Path) -> None:
    for number in range(2 * STEP + 40):
        night(tmp_path, number, {"a.it": 11.0 if number >= STEP else 10.0}, boots=2)
    tracked = load_history(tmp_path, nights=30)
    assert verdicts(tracked) == {"a.it": "regressed"}
    assert len(tracked.runs) == 30
    assert len(tracked.points) == 30
    assert len(tracked.changes) == 1, "an older change is listed too"


def test_partial_recovery_is_still_a_regression(tmp_path: Path) -> None:
    for number in range(70):
        level = 10.0 if number < 30 else (13.0 if number < 50 else 12.0)
        night(tmp_path, number, {"a.it": level}, boots=3)
    tracked = load_history(tmp_path)
    assert [row["effect"] > 0 for row in tracked.changes.to_dict("records")] == [True, False]
    assert verdicts(tracked) == {"a.it": "regressed"}


def test_unmeasured_series_is_inconclusive(tmp_path: Path) -> None:
    for number in range(40):
        night(tmp_path, number, {"a.other": 1.0, **({"a.it": 10.0} if number < 30 else {})})
    tracked = load_history(tmp_path)
    assert verdicts(tracked) == {"a.it": "inconclusive", "a.other": "pass"}
    assert tracked.series["flags"][0] == [f"not measured in the newest {MIN_AFTER} runs"]


def test_nights_limits_the_reported_runs(tmp_path: Path) -> None:
    nights(tmp_path, [{"a.it": 10.0}] * 6)
    assert len(load_history(tmp_path, nights=4).runs) == 4


def test_broken_run_is_noted_and_skipped(tmp_path: Path) -> None:
    paths = nights(tmp_path, [{"a.it": 10.0}] * 3)
    paths[1].write_bytes(paths[1].read_bytes()[:100])
    tracked = load_history(tmp_path)
    assert len(tracked.runs) == 2
    assert len(tracked.notes) == 1
    assert paths[1].stem in tracked.notes[0]


def test_history_without_figures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="holds no runs"):
        load_history(tmp_path)
    night(tmp_path, 0, {"a.it": 10.0}, better="none")
    with pytest.raises(ResultError, match="no figure with a better direction"):
        load_history(tmp_path)


def test_series_ids_are_stable(tmp_path: Path) -> None:
    nights(tmp_path / "one", [{"a.it": 10.0}] * 2)
    nights(tmp_path / "other", [{"a.it": 99.0, "a.more": 1.0}] * 3)
    one, other = (load_history(tmp_path / name).series for name in ("one", "other"))
    assert one[ID][0] == other[other["metric"] == "a.it"][ID].iloc[0]


def test_newest_acknowledgement_wins(tmp_path: Path) -> None:
    acknowledge(tmp_path, "feed", "run", "first")
    acknowledge(tmp_path, "feed", "run", "second")
    files = sorted((tmp_path / "acknowledged").glob("*.json"))
    assert len(files) == 2
    assert load_acknowledgements(tmp_path).reason("feed", "run") == "second"
    assert load_acknowledgements(tmp_path).reason("feed", "other") == ""


@pytest.mark.parametrize("text", ["", "{", "[]", json.dumps({"series": "x"})])
def test_broken_acknowledgement_is_noted(tmp_path: Path, text: str) -> None:
    nights(tmp_path, [{"a.it": 10.0}])
    (tmp_path / "acknowledged").mkdir()
    (tmp_path / "acknowledged" / "20260101T000000Z-000000.json").write_text(text)
    (note,) = load_history(tmp_path).notes
    assert "20260101T000000Z-000000.json must be a readable acknowledgement" in note
