"""hosts.toml: what is read, what is assumed, and what is refused with which hint."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from harness.errors import PlanError
from harness.planner.energy import default_curves
from harness.planner.hosts_file import HostsFile, read_hosts_file
from harness.planner.plan import Assumption

GOOD = """\
[site]
currency = "EUR"
pue = 1.2
energy_price = 0.3

[host.new]
cores = 32
threads = 64
smt_yield = 1.25
memory_gib = 512
reserve_gib = 12
rating = 1.5
iops = 200000
network_mib_s = 2400
rack_units = 2
hosts_per_rack = 16
watts = [100, 120, 140, 160, 180, 200, 220, 240, 260, 280, 300]
price = 9000
embodied_kg = 1500
life_years = 4

[host.old]
cores = 16
memory_gib = 128
curve = "2-socket-2012"
names = ["esx1", "esx2"]
racks = ["A1", "B1"]

[today]
type = "old"

[licences]
database = 4000

[constraints]
apart = [["db1", "db2"]]
licensed = { database = ["db*"] }
"""


def read(tmp_path: Path, text: str) -> HostsFile:
    path = tmp_path / "hosts.toml"
    path.write_text(text)
    return read_hosts_file(path)


def test_everything_is_read(tmp_path: Path) -> None:
    hosts = read(tmp_path, GOOD)
    new, old = hosts.types
    assert (new.speed, new.memory_mib, new.reserve_mib) == (32 * 1.5 * 1.25, 524_288, 12_288)
    assert new.capacity.tolist() == [60.0, 512_000.0, 200_000.0, 2400.0]
    assert (new.curve.watts[10], new.per_rack, new.price, new.count) == (300, 16, 9000, None)
    assert (old.exists, old.count, old.racks) == (True, 2, ("A1", "B1"))
    assert old.curve == default_curves()["2-socket-2012"]
    assert hosts.site.licences == (("database", 4000.0),)
    assert hosts.constraints.licensed == (("database", ("db*",)),)


def test_cores_count_and_not_threads(tmp_path: Path) -> None:
    (one,) = read(tmp_path, "[host.a]\ncores = 32\nthreads = 64\nmemory_gib = 64\n").types
    assert one.speed == 32


def test_a_capacity_that_is_not_given_is_unlimited(tmp_path: Path) -> None:
    (one,) = read(tmp_path, "[host.a]\ncores = 32\nmemory_gib = 64\n").types
    assert one.capacity[2:].tolist() == [math.inf, math.inf]


def test_what_is_not_said_is_assumed_with_a_source(tmp_path: Path) -> None:
    hosts = read(tmp_path, "[host.a]\ncores = 32\nmemory_gib = 100\n")
    (one,) = hosts.types
    rows = {row.name: row for row in (*one.assumptions, *hosts.site.assumptions)}
    assert rows["memory for the host itself of a"] == Assumption(
        "memory for the host itself of a", "5 of 100 GiB", "assumed"
    )
    assert rows["price of a"].value == rows["price of a"].source == "not given"
    assert "SPECpower" in rows["power of a"].source
    assert "Boavizta" in rows["carbon of making a host of a"].source
    assert (rows["PUE"].value, hosts.site.pue) == ("1.54", 1.54)
    assert (rows["price of energy"].source, hosts.site.energy_price) == ("assumed", 0.13)


def test_given_values_say_so(tmp_path: Path) -> None:
    hosts = read(tmp_path, GOOD)
    rows = {row.name: row for row in (*hosts.types[0].assumptions, *hosts.site.assumptions)}
    for name in ("PUE", "price of energy", "price of new", "power of new", "rating of new"):
        assert rows[name].source == "given"
    site = hosts.site.with_given(1.1, None)
    assert (site.pue, site.energy_price) == (1.1, 0.3)
    assert Assumption("PUE", "1.1", "given") in site.assumptions


def test_no_price_of_energy_is_assumed_in_another_currency(tmp_path: Path) -> None:
    hosts = read(tmp_path, '[site]\ncurrency = "EUR"\n[host.a]\ncores = 1\nmemory_gib = 1\n')
    assert hosts.site.energy_price is None


def test_servers_of_today_are_not_bought_again(tmp_path: Path) -> None:
    text = GOOD.replace('names = ["esx1", "esx2"]\nracks = ["A1", "B1"]\n', "")
    hosts = read(tmp_path, text)
    assert [one.name for one in hosts.choices] == ["new"]
    with_names = hosts.with_inventory(["esx7", "esx9"])
    assert [one.name for one in with_names.choices] == ["new", "old"]
    assert with_names.type_of("old").names == ("esx7", "esx9")


HOST = "[host.a]\ncores = 8\nmemory_gib = 64\n"
BAD = {
    "no TOML": ("[host.a\n", "cannot be read", "name a TOML file"),
    "no types": ("[site]\npue = 1.5\n", "has no type of host", "add a table [host.NAME]"),
    "no cores": ("[host.a]\nmemory_gib = 1\n", "host.a.cores is missing", "from 1 to 10000"),
    "text": ('[host.a]\ncores = "8"\n', "host.a.cores = '8'", "give a number from 1 to 10000"),
    "bool": ("[host.a]\ncores = true\n", "host.a.cores = True", "give a number"),
    "nan": ("[host.a]\ncores = nan\n", "host.a.cores = nan", "give a number"),
    "fewer threads": (f"{HOST}threads = 4\n", "host.a.threads = 4", "from 8 to 128"),
    "smt": (f"{HOST}smt_yield = 1.3\n", "cores with one thread", "give host.a.threads"),
    "reserve": (f"{HOST}reserve_gib = 65\n", "host.a.reserve_gib = 65", "from 0 to 64"),
    "ten watts": (f"{HOST}watts = {[1] * 10}\n", "host.a.watts = [1, 1", "give 11 numbers"),
    "falling": (f"{HOST}watts = {[9] * 10 + [1]}\n", "falls from 9 to 1", "begin with the watts"),
    "curve": (f'{HOST}curve = "best"\n', "host.a.curve = 'best'", "2-socket-2021"),
    "both": (
        f'{HOST}curve = "2-socket-2021"\nwatts = {[1] * 11}\n',
        "watts and host.a.curve are both given",
        "keep one",
    ),
    "unknown key": (f"{HOST}core = 8\n", "the unknown key host.a.core", "use cores"),
    "racks": (f'{HOST}names = ["x"]\nracks = ["r", "s"]\n', "2 entries for 1 names", "the rack of"),
    "count": (f'{HOST}names = ["x"]\ncount = 2\n', "count = 2 for 1 names", "leave count out"),
    "same name": (f'{HOST}names = ["x", "x"]\n', "'x' is named twice", "name each host once"),
    "pue": (f"{HOST}[site]\npue = 0.9\n", "site.pue = 0.9", "from 1 to 10"),
    "today": (f'{HOST}[today]\ntype = "b"\n', "today.type = 'b'", "use a type of host: a"),
    "servers": (
        f'{HOST}[today]\ntype = "a"\nservers = "all"\n',
        "today.servers = 'all'",
        'use "machines" or "hosts"',
    ),
    "conflicts": (
        f'{HOST}[constraints]\nconflicts = [["a", "b", "c"]]\n',
        "a group of 3 names",
        "give pairs",
    ),
    "group": (f'{HOST}[constraints]\napart = ["a"]\n', "constraints.apart = 'a'", "write a list"),
    "control": (f'{HOST}names = ["\\u001b[31m"]\n', "host.a.names has", "printable characters"),
    "table": ("host = 3\n", "host = 3", "write a table [host]"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_with_cause_and_hint(tmp_path: Path, case: str) -> None:
    text, cause, hint = BAD[case]
    with pytest.raises(PlanError) as raised:
        read(tmp_path, text)
    assert cause in raised.value.cause
    assert hint in raised.value.hint


def test_a_missing_file_and_a_huge_one_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PlanError, match="cannot be read"):
        read_hosts_file(tmp_path / "none.toml")
    monkeypatch.setattr("harness.planner.toml_table._MAX_BYTES", 10)
    with pytest.raises(PlanError, match="is larger than"):
        read(tmp_path, GOOD)
