"""Conversion of samples from older schema versions. Files are never rewritten, only read.

- 1 has no column attempt.
- 2 and before have "" in the column better for "none".
- 3 and before have one column, test, for what are test and item now: a test's node id with the
  hypervisor and the number of the boot, if the test had these parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from harness.results.schema import COLUMNS, SCHEMA_VERSION

# columns that a version adds
_ADDED = {2: ("attempt",), 4: ("item",)}
_FIRST_WITH_NONE = 3
_FIRST_WITH_ITEM = 4
_IMPORTED = ""  # backend of samples of other tools, whose node ids have no such parameters


def columns_of(version: int) -> list[str]:
    """The columns of a file of this version."""
    later = {name for since, names in _ADDED.items() if since > version for name in names}
    return [name for name in COLUMNS if name not in later]


def migrate_row(row: Mapping[str, Any], version: int) -> dict[str, Any]:
    """A sample's fields in the present schema. Raises KeyError when a field is missing."""
    new = dict(row)
    if version < 2:
        new.setdefault("attempt", 1)
    if version < _FIRST_WITH_NONE:
        new["better"] = new["better"] or "none"
    if version < _FIRST_WITH_ITEM and "item" not in new:
        new["item"] = new["test"]
        if new["backend"] != _IMPORTED:
            new["test"] = test_of_version_3(str(new["item"]), str(new["hypervisor"]), new["boot"])
    return new


def migrate_frame(frame: pd.DataFrame, version: int) -> pd.DataFrame:
    """The samples of a file in the present schema."""
    if version == SCHEMA_VERSION:
        return frame
    if version < 2:
        frame = frame.assign(attempt=np.int32(1))
    if version < _FIRST_WITH_NONE:
        frame = frame.assign(better=frame["better"].replace("", "none"))
    if version < _FIRST_WITH_ITEM:
        keys = list(zip(frame["test"], frame["hypervisor"], frame["boot"], strict=True))
        tests = {key: test_of_version_3(*key) for key in set(keys)}
        converted = pd.Series([tests[key] for key in keys], index=frame.index, dtype=object)
        is_imported = frame["backend"] == _IMPORTED
        frame = frame.assign(item=frame["test"], test=converted.mask(is_imported, frame["test"]))
    return frame[list(COLUMNS)]


def sql_columns(version: int) -> str:
    """The columns of the present schema, as SQL over a file of this version. It uses SQL_MACROS."""
    converted: dict[str, str] = {}
    if version < 2:
        converted["attempt"] = "1"
    if version < _FIRST_WITH_NONE:
        converted["better"] = "CASE better WHEN '' THEN 'none' ELSE better END"
    if version < _FIRST_WITH_ITEM:
        converted |= {"item": "test", "test": "test_of_version_3(test, hypervisor, boot, backend)"}
    return ", ".join(
        f'{converted[name]} AS "{name}"' if name in converted else f'"{name}"' for name in COLUMNS
    )


def test_of_version_3(item: str, hypervisor: str, boot: int) -> str:
    """The test of a node id of version 3, which its boots on all hypervisors share.

    The parameters hypervisor and boot come first in such an id: "test_io.py::test_read[kvm-0-4k]"
    becomes "test_io.py::test_read[4k]". The hypervisor was called "auto" when none was named. A
    first parameter of the test's own that equals the number of the boot is lost: nothing in such a
    file tells them apart.
    """
    function, bracket, ids = item.partition("[")
    if not bracket or not ids.endswith("]"):
        return item
    rest = ids[:-1] + "-"
    for hypervisor_id in (hypervisor, "auto"):
        if rest.startswith(f"{hypervisor_id}-"):
            rest = rest.removeprefix(f"{hypervisor_id}-")
            break
    rest = rest.removeprefix(f"{boot}-")
    return f"{function}[{rest[:-1]}]" if rest else function


# test_of_version_3() in SQL
SQL_MACROS = rf"""
CREATE TEMP MACRO IF NOT EXISTS without_first(ids, parameter) AS
    CASE WHEN starts_with(ids, parameter || '-') THEN substr(ids, length(parameter) + 2)
    ELSE ids END;
CREATE TEMP MACRO IF NOT EXISTS without_hypervisor(ids, hypervisor) AS
    CASE WHEN starts_with(ids, hypervisor || '-') THEN without_first(ids, hypervisor)
    ELSE without_first(ids, 'auto') END;
CREATE TEMP MACRO IF NOT EXISTS with_brackets(ids) AS
    CASE ids WHEN '' THEN '' ELSE '[' || left(ids, -1) || ']' END;
CREATE TEMP MACRO IF NOT EXISTS test_of_version_3(item, hypervisor, boot, backend) AS
    CASE WHEN backend <> '{_IMPORTED}' AND regexp_matches(item, '(?s)^[^\[]*\[.*\]$')
    THEN split_part(item, '[', 1) || with_brackets(without_first(without_hypervisor(
        left(substr(item, strpos(item, '[') + 1), -1) || '-', hypervisor), boot::VARCHAR))
    ELSE item END;
"""
