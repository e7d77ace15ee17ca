"""The page of a plan: the right values in the right places, and what it says without them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from harness.planner.plan import Backtest, Failure, MachineAdvice, Sensitivity
from reports.plan.amounts import DAYS
from tests.reports.checks import key_figures, paragraphs, rows, table_of
from tests.reports.page import Element
from tests.reports.plans import HOURS, make_import, make_plan, page_of


def descriptions(section: Element) -> list[str]:
    """Of the wide figures."""
    return [figure.all("desc")[0].text for figure in section.all("figure")]


@pytest.fixture(scope="module")
def page() -> Element:
    return page_of(make_plan(), make_import())


@pytest.fixture(scope="module")
def bare_page() -> Element:
    """Of a plan that knows its hosts and nothing else."""
    bare = replace(
        make_plan(12, 2),
        before=None,
        banners=(),
        failures=(),
        variants=(),
        backtest=None,
        advice=(),
        moves=(),
        tornado=(),
        demand=(),
        assumptions=(),
    )
    return page_of(bare)


def test_title_is_the_headline_and_banners_come_first(page: Element, bare_page: Element) -> None:
    assert page.all("h1")[0].text == "412 servers to 31 hosts, bound 30"
    interrupted = page_of(replace(make_plan(), interrupted=True))
    first, second = [
        one.text for one in interrupted.all("p") if one.attributes.get("class") == "banner"
    ]
    assert first.startswith("The search was interrupted")
    assert second == "The trace covers 5 days. A plan needs at least 7."
    assert page.all("header")[0].all("p")[-1].text == second
    assert "banner" not in [one.attributes.get("class") for one in bare_page.all("p")]


def test_key_figures(page: Element) -> None:
    found = key_figures(page)
    assert found["Hosts of the plan"] == (
        "31",
        "No plan can have fewer than 30. Memory needs so many on Tuesday at 10:00.",
    )
    assert found["Hosts freed"] == ("89", "−74 % of 120 hosts, 6 racks fewer")
    assert found["Power"][0] == "9.80 kW"
    assert "300 MWh less" in found["Power"][1]
    assert found["Saved in a year"] == (
        "49,627 EUR",
        "14,880 EUR instead of 64,507. Counted: energy, rack space",
    )
    assert found["Failures survived"][0] == "31 of 32"
    assert found["Check on later data"][0] == "no overload"


@pytest.mark.parametrize(
    ("bound", "words"),
    [
        (31.0, "No plan can have fewer. Memory"),
        (30.0, "No plan can have fewer than 30. Memory"),
        (math.inf, "It is not known how few hosts would do."),
    ],
)
def test_bound_in_words(bound: float, words: str) -> None:
    page = page_of(replace(make_plan(), bound=bound))
    assert key_figures(page)["Hosts of the plan"][1].startswith(words)


def test_before_and_after(page: Element) -> None:
    table = table_of(page.id("before-after"), "Hosts, energy")
    assert table["Hosts"][1:] == ["120", "31", "", "−74 %"]
    assert table["CPU cores"][1:] == ["2,880", "992", "", "−66 %"]
    assert table["Memory"][1:4] == ["46,080", "15,872", "GiB"]
    assert table["Electricity"][1:] == ["385", "85.8", "MWh", "−78 %"]
    assert table["CO₂"][1:4] == ["180", "41.0", "t"]
    assert table["Cost: energy"][1:4] == ["50,107", "11,160", "EUR"]
    assert table["Cost: hardware"][1:] == ["not given", "not given", "EUR", "–"]
    assert table["Cost: all that is given"][1:] == ["64,507", "14,880", "EUR", "−77 %"]
    types = table_of(page.id("before-after"), "Types")
    assert types["2 x 16 cores, 512 GiB"][1:] == ["5", "15", "264"]
    words = paragraphs(page.id("before-after"))
    assert "All machines leave 89 hosts: old-000, old-001," in words
    assert "and 69 more. They can be switched off" in words
    assert "No price was given for: hardware, licences." in words


def test_costs_of_different_things_are_not_compared() -> None:
    plan = make_plan()
    page = page_of(replace(plan, after=replace(plan.after, hardware_cost=60_000.0)))
    table = table_of(page.id("before-after"), "Hosts, energy")
    assert table["Cost: all that is given"][1:] == ["64,507", "74,880", "EUR", "–"]
    assert "Saved in a year" not in key_figures(page)
    assert "prices for different things" in paragraphs(page.id("before-after"))


def test_sections_without_content_say_why(bare_page: Element) -> None:
    table = bare_page.id("before-after").all("table")[0]
    assert [one.text for one in table.all("thead")[0].all("th")] == ["Quantity", "Plan", "Unit"]
    for section, words in {
        "before-after": "The data name no hosts of today",
        "demand": "no demand over time",
        "machines": "No machine looks idle",
        "failures": "No failure was tried",
        "what-ifs": "No other case was planned",
        "backtest": "There was no check on later data",
        "sensitivity": "No assumption was varied",
        "assumptions": "names no assumption",
        "quality": "data/frankfurt was not there",
        "moves": "12 machines stay where they are, and none moves.",
    }.items():
        assert words in paragraphs(bare_page.id(section)), section


def test_demand_is_beside_allocation_and_capacity(page: Element) -> None:
    hours = make_plan().demand[0].hours
    table = table_of(page.id("demand"), "The busiest hour")
    day, clock = divmod(hours.index(max(hours)), 24)
    assert table["CPU"][1:6] == [
        f"{max(hours):.0f}",
        f"{DAYS[day]} {clock:02}:00",
        "1,277",
        "391",
        "cores",
    ]
    assert table["Memory"][3:6] == ["3,296", "2,539", "GiB"]
    assert table["Network"][3:5] == ["–", "–"], "neither allocated nor planned"
    assert table["Network"][6:] == ["–", "–"]
    assert "allocated 1,277 cores; usable 391 cores" in descriptions(page.id("demand"))[0]


def test_heat_map_has_a_row_for_each_host_with_the_busiest_first(page: Element) -> None:
    plan = make_plan()
    busiest = max(plan.hosts, key=lambda host: max(host.hours))
    section = page.id("hosts")
    (description,) = descriptions(section)
    assert description.startswith(
        f"31 hosts; busiest {busiest.name}: {100 * busiest.peak['cpu']:.0f} %"
    )
    labels = [one.text for one in section.all("svg")[0].all("text")]
    assert sum(label.startswith("esx-") for label in labels) == 31
    assert labels.index(busiest.name) < labels.index(plan.hosts[-1].name)
    first, *_ = rows(section).values()
    assert first[0] == busiest.name
    assert first[3:8] == ["buy", "13", "98 %", "94 %", "12 %"]


def test_heat_map_of_many_hosts_has_bands_for_the_rest() -> None:
    plan = make_plan(2000, 200)
    section = page_of(plan).id("hosts")
    labels = [one.text for one in section.all("svg")[0].all("text")]
    assert sum(label.startswith("esx-") for label in labels) == 60
    assert "The other 140 hosts" in labels
    rest = sorted(plan.hosts, key=lambda host: max(host.hours))[:140]
    titles = [one.text for one in section.all("svg")[0].all("title")]
    lowest = max(min(host.hours[hour] for host in rest) for hour in range(HOURS))
    assert f"lowest, hour by hour: up to {100 * lowest:.0f} %" in titles
    highest = max(max(host.hours) for host in rest)
    assert f"highest, hour by hour: up to {100 * highest:.0f} %" in titles
    assert "The file of hosts has all 200." in paragraphs(section)


def test_idle_and_oversized_machines(page: Element) -> None:
    section = page.id("machines")
    words = paragraphs(section)
    assert "42 machines look idle" in words
    assert "hold 84 virtual CPUs and 168 GiB of memory." in words
    idle = table_of(section, "Machines that look idle (comatose): the largest 25 of 42")
    assert idle["vm-00000"][1:] == ["2", "4.0", "0.0040", "0.020", "switch it off, or delete it"]
    large = table_of(section, "Machines that are larger")
    assert next(iter(large)) == "vm-00015", "machines of known size come first"
    assert large["vm-00005"][2] == "not given"


def test_one_idle_machine_in_words() -> None:
    one = MachineAdvice("db", "comatose", 4.0, None, 0.0, 0.0, "ask its owner")
    words = paragraphs(page_of(replace(make_plan(), advice=(one,))).id("machines"))
    assert "1 machine looks idle: it is switched on, but its CPU does nearly nothing." in words
    assert "It holds 4 virtual CPUs." in words


def test_worst_failures_come_first(page: Element) -> None:
    section = page.id("failures")
    table = rows(section)
    assert next(iter(table)) == "rack-1"
    assert table["rack-1"][1:] == [
        *("machines without a host", "200", "2", "vm-00001, vm-00002", "99 %")
    ]
    assert table["esx-001"][1:] == ["all placed", "13", "0", "–", "97 %"]
    words = paragraphs(section)
    assert "In 1 of 32 cases some machines found no host, at most 2 at once." in words
    assert "17 milder failures are not shown" in words
    survived = page_of(replace(make_plan(), failures=(Failure("esx-001", 13, (), 0.9),)))
    assert "In the only case every machine found a host." in paragraphs(survived.id("failures"))


def test_what_ifs_are_side_by_side(page: Element) -> None:
    table = rows(page.id("what-ifs"))
    assert table["this plan"][1:4] == ["31", "0", "30"]
    assert table["grow=1.2"][1:4] == ["38", "+7", "36"]
    assert "every machine needs 20 % more" in table["grow=1.2"][0]
    assert table["host=old"][8] == "not given"
    assert "grow=1.2: 38 hosts, at least 36" in descriptions(page.id("what-ifs"))[0]


@pytest.mark.parametrize(
    ("target", "capacity", "words", "key"),
    [
        (0, 0, "No load was above the target.", "no overload"),
        (30, 0, "3.0 % of the loads were above the target, and none above", "no overload"),
        (30, 12, "1.2 % of the loads were above the capacity of their host", "12 overloads"),
        (30, 1, "below 0.1 % of the loads were above the capacity", "1 overload"),
    ],
)
def test_check_on_later_data(target: int, capacity: int, words: str, key: str) -> None:
    samples = 10_000 if capacity == 1 else 1000
    back = Backtest(21.0, 9.0, 29, samples, target, capacity, 0.9)
    page = page_of(replace(make_plan(), backtest=back))
    said = paragraphs(page.id("backtest"))
    assert "first 21 days of the trace alone: 29 hosts. The next 9 days" in said
    assert words in said
    assert rows(page.id("backtest"))["Above the capacity"][1] == str(capacity)
    assert key_figures(page)["Check on later data"][0] == key


def test_tornado_has_the_longest_bar_first_and_a_figure_for_each_unit(page: Element) -> None:
    section = page.id("sensitivity")
    hosts, money = descriptions(section)
    assert hosts.startswith("Growth: 31.0 at 1.0, 43.0 at 1.4; Target utilization: 27.0 at 0.8")
    assert money.startswith("Price of electricity: ")
    assert list(rows(section))[:2] == ["Growth", "Target utilization"]
    assert rows(section)["Growth"][1:] == ["1.0", "31", "1.4", "43", "12", "hosts"]


def test_assumption_without_effect_is_named_so() -> None:
    none = Sensitivity("Idle power", "0.5", "1.0", 31.0, 31.0, 31.0, "hosts")
    section = page_of(replace(make_plan(), tornado=(none,))).id("sensitivity")
    assert "no effect" in [one.text for one in section.all("svg")[0].all("text")]


def test_assumptions_that_are_only_assumed_are_marked(page: Element) -> None:
    table = page.id("assumptions").all("table")[0]
    marked = [one.text for one in table.all("td") if "flag" in one.attributes.get("class", "")]
    assert marked == ["assumed"]
    assert rows(table)["PUE"][1:] == ["1.54", "Uptime Institute, survey of 2025"]


def test_data_quality_in_the_plan(page: Element) -> None:
    section = page.id("quality")
    assert "412 of them with a trace: 3,585,600 samples over 30 days" in paragraphs(section)
    findings = section.all("tbody")[0].all("tr")
    assert findings[0].text.startswith("warning")
    assert "3 machines (new-0, new-1, new-2)." in paragraphs(section)
    assert "1 machine (template-debian)." in paragraphs(section)


def test_moves_in_words(page: Element) -> None:
    assert "381 machines move to another host, and 31 stay" in paragraphs(page.id("moves"))
    plan = make_plan()
    unknown = (replace(plan.moves[0], source=""), *plan.moves[1:])
    words = paragraphs(page_of(replace(plan, moves=unknown)).id("moves"))
    assert "380 machines move" in words
    assert "name no host of today for 1 machine" in words
