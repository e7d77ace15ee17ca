"""Constraints from hosts.toml and the inventory: names become indices."""

from __future__ import annotations

import pytest

from harness.errors import PlanError
from harness.planner.constraints import (
    InventoryGroups,
    NamedConstraints,
    ResolvedConstraints,
    resolve,
)

MACHINES = ("web-1", "web-2", "web-3", "db", "app")
NOTHING = (None,) * len(MACHINES)
EMPTY = InventoryGroups(NOTHING, NOTHING, NOTHING, NOTHING)


def resolved(named: NamedConstraints, inventory: InventoryGroups = EMPTY) -> ResolvedConstraints:
    return resolve(named, MACHINES, inventory)


def test_names_and_patterns_become_indices() -> None:
    found = resolved(
        NamedConstraints(
            apart=(("web-*",),),
            together=(("app", "db"),),
            spread=(("web-1", "db"),),
            licensed=(("database", ("db",)),),
            pins={"db": "esx1"},
            conflicts=(("db", "web-2"),),
        )
    )
    constraints = found.constraints
    assert constraints.apart == ((0, 1, 2),)
    assert constraints.together == ((4, 3),)
    assert constraints.spread == ((0, 3),)
    assert constraints.licensed == ((3,),)
    assert constraints.pins == {3: "esx1"}
    assert constraints.conflicts == ((3, 1),)
    assert found.licences == ("database",)


def test_groups_of_the_inventory_are_added() -> None:
    inventory = InventoryGroups(
        apart=("a", "a", None, None, None),
        together=(None, None, "t", "t", None),
        licence=(None, None, None, "database", "database"),
        pin=("esx2", None, None, None, None),
    )
    found = resolved(NamedConstraints(licensed=(("database", ("web-1",)),)), inventory)
    assert found.constraints.apart == ((0, 1),)
    assert found.constraints.together == ((2, 3),)
    assert found.constraints.licensed == ((0, 3, 4),)
    assert found.constraints.pins == {0: "esx2"}


BAD = {
    "machine": (NamedConstraints(apart=(("web-9",),)), "'web-9', which is not planned"),
    "pattern": (NamedConstraints(spread=(("mail*",),)), "'mail*', which no planned machine"),
    "pin": (NamedConstraints(pins={"mail": "esx1"}), "pins names the machine 'mail'"),
    "conflict": (NamedConstraints(conflicts=(("db", "web-*"),)), "conflicts names the machine"),
}


@pytest.mark.parametrize("case", BAD)
def test_names_that_no_machine_has_are_refused(case: str) -> None:
    named, cause = BAD[case]
    with pytest.raises(PlanError) as raised:
        resolved(named)
    assert cause in raised.value.cause
    assert raised.value.hint
