"""Tiles: the standard one, and errors in files of users."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.errors import WorkloadError
from suites.consolidation.tile import STANDARD, load_tile

GOOD = """
name = "mine"
version = 3
[guest.front]
server = "web"
memory = 96
rate = 5
percentile = 99
floor = 0.1
"""


def load(folder: Path, text: str) -> object:
    path = folder / "tile.toml"
    path.write_text(text)
    return load_tile(path, "emulated")


def test_standard_tile_has_five_guests_for_both_classes() -> None:
    emulated, hardware = (load_tile(STANDARD, kind) for kind in ("emulated", "hardware"))
    assert [one.name for one in emulated.guests] == ["web", "cache", "oltp", "batch", "idle"]
    assert emulated.memory == hardware.memory == sum(one.memory for one in emulated.guests)
    web = {kind.guests[0].rate for kind in (emulated, hardware)}
    assert web == {3.0, 200.0}


def test_own_tile_is_read(tmp_path: Path) -> None:
    path = tmp_path / "tile.toml"
    path.write_text(GOOD)
    tile = load_tile(path, "hardware")
    assert (tile.name, tile.version, tile.memory) == ("mine", 3, 96)
    assert (tile.guests[0].rate, tile.guests[0].arrivals) == (5.0, "poisson")
    assert tile.scaled(0.25).guests[0].rate == 1.25


@pytest.mark.parametrize(
    ("change", "problem", "hint"),
    [
        (("name", "nam"), "the unknown key 'nam'", "use name, version and guest"),
        (("version = 3", "version = 0"), "the version 0", "whole number from 1"),
        (('"web"', '"mail"'), "unknown server 'mail'", "use web, cache, oltp, batch, idle"),
        (("rate", "rte"), "the unknown key guest.front.rte", "use rate"),
        (("rate = 5", ""), "no guest.front.rate", r"add rate to \[guest.front\]"),
        (("rate = 5", "rate = 0"), "guest.front.rate = 0", "from 0.001 to"),
        (("rate = 5", "rate = true"), "guest.front.rate = True", "give a number"),
        (("rate = 5", "rate = nan"), "guest.front.rate = nan", "give a number"),
        (("rate = 5", "rate = {hardware = 5}"), "= None for a host of the class emulated", "give"),
        (("memory = 96", "memory = 1"), "guest.front.memory = 1", "from 64"),
        (("floor = 0.1", ""), "neither floor nor limit", "add a fixed limit"),
        (("[guest.front]", "[guests.front]"), "the unknown key 'guests'", "use name"),
        (("rate = 5", 'rate = 5\narrivals = "closed"'), "'closed'", "use poisson or periodic"),
        (
            ('"web"', '"oltp"\narrivals = "periodic"'),
            "periodic arrivals, which pgbench cannot make",
            "use poisson",
        ),
        (("name = ", "name == "), "it cannot be read", "name a TOML file"),
    ],
)
def test_error_names_cause_and_hint(
    tmp_path: Path, change: tuple[str, str], problem: str, hint: str
) -> None:
    with pytest.raises(WorkloadError, match=r"tile\.toml is not a tile: ") as caught:
        load(tmp_path, GOOD.replace(*change))
    assert problem in caught.value.cause
    assert re.search(hint, caught.value.hint)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match=r"none\.toml is not a tile: it cannot be read"):
        load_tile(tmp_path / "none.toml", "emulated")
