"""A run as JUnit's XML, for what shows such files: a test case for each test that measured.

Which test failed a run file does not know, only how many did: so no case says that it passed or
failed, `failures` and `errors` are left out, and the outcomes are properties of the suite. A case's
properties are its figures: the median of its boots' medians, with the unit.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pandas as pd

from harness.results.schema import RunFacts, decode
from harness.results.statistics import BOOT, KEYS

_ABOUT = ("run", "hypervisor", "host", "backend", "cpu_model", "kernel", "image", "commit")
_SAYS = (
    "only tests that measured are listed, and none of them is said to have passed or failed: "
    "the run's outcomes are known as counts"
)
# what no XML 1.0 document may hold, however written
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def xml(facts: RunFacts, frame: pd.DataFrame) -> str:
    figures = _figures(frame[frame["test"] != ""])
    suites = ET.Element("testsuites")
    suite = ET.SubElement(
        suites, "testsuite", name="pytest-hypervisor", tests=str(figures["test"].nunique())
    )
    if "start" in facts:
        suite.set("timestamp", facts["start"])
    known = {name: str(facts[name]) for name in _ABOUT if name in facts}  # type: ignore[literal-required]
    outcomes = {f"outcomes.{name}": str(n) for name, n in facts.get("outcomes", {}).items()}
    _properties(suite, [*known.items(), *outcomes.items(), ("note", _SAYS)])
    for test, rows in figures.groupby("test", sort=False):
        file, _, name = str(test).partition("::")
        place = file.removesuffix(".py").replace("/", ".")
        case = ET.SubElement(suite, "testcase", classname=_text(place), name=_text(name or file))
        _properties(case, [_figure(row) for row in rows.to_dict("records")])
    ET.indent(suites)
    text = ET.tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'


def _figures(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a test and KEYS: value (the median of its boots' medians)."""
    by_boot = frame.groupby(["test", *KEYS, *BOOT], sort=False, dropna=False)["value"].median()
    grouped = by_boot.groupby(level=["test", *KEYS], sort=False, dropna=False)
    return grouped.median().reset_index()


def _figure(row: dict[object, object]) -> tuple[str, str]:
    """Its name with what it was measured on and with, and its value."""
    setting = [f"{name}={value}" for name, value in decode(str(row["parameters"])).items()]
    words = ", ".join([str(row["hypervisor"]), *setting])
    return f"{row['metric']} ({words})", f"{row['value']:.6g} {row['unit']}".strip()


def _properties(parent: ET.Element, told: list[tuple[str, str]]) -> None:
    made = ET.SubElement(parent, "properties")
    for name, value in told:
        ET.SubElement(made, "property", name=_text(name), value=_text(value))


def _text(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
