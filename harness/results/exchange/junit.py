"""Export of a run as JUnit XML, with one test case for each test that recorded samples.

A run file has the number of failed tests, but not their names. So a test case has no outcome,
`failures` and `errors` are omitted, and the counts are properties of the suite. The properties of a
test case are its figures: the median of the boots' medians, with the unit.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pandas as pd

from harness.results.schema import RunFacts, decode_parameters
from harness.results.statistics import BOOT, KEYS

_FACTS = ("run", "hypervisor", "host", "backend", "cpu_model", "kernel", "image", "commit")
_NOTE = (
    "Only tests with samples are listed. A test case has no outcome: the run stores the number of "
    "outcomes only."
)
# characters that XML 1.0 forbids, even as character references
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def xml(facts: RunFacts, frame: pd.DataFrame) -> str:
    """The XML document."""
    figures = _figures(frame[frame["item"] != ""])
    suites = ET.Element("testsuites")
    suite = ET.SubElement(
        suites, "testsuite", name="pytest-hypervisor", tests=str(figures["item"].nunique())
    )
    if "start" in facts:
        suite.set("timestamp", facts["start"])
    known = {name: str(facts[name]) for name in _FACTS if name in facts}  # type: ignore[literal-required]
    outcomes = {f"outcomes.{name}": str(n) for name, n in facts.get("outcomes", {}).items()}
    _properties(suite, [*known.items(), *outcomes.items(), ("note", _NOTE)])
    for item, rows in figures.groupby("item", sort=False):
        file, _, name = str(item).partition("::")
        place = file.removesuffix(".py").replace("/", ".")
        case = ET.SubElement(suite, "testcase", classname=_text(place), name=_text(name or file))
        _properties(case, [_figure(row) for row in rows.to_dict("records")])
    ET.indent(suites)
    text = ET.tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'


def _figures(frame: pd.DataFrame) -> pd.DataFrame:
    """The median of the boots' medians, for each item and KEYS."""
    by_boot = frame.groupby(["item", *KEYS, *BOOT], sort=False, dropna=False)["value"].median()
    grouped = by_boot.groupby(level=["item", *KEYS], sort=False, dropna=False)
    return grouped.median().reset_index()


def _figure(row: dict[object, object]) -> tuple[str, str]:
    """The name of a figure, with hypervisor and parameters, and its value."""
    setting = [
        f"{name}={value}" for name, value in decode_parameters(str(row["parameters"])).items()
    ]
    context = ", ".join([str(row["hypervisor"]), *setting])
    return f"{row['metric']} ({context})", f"{row['value']:.6g} {row['unit']}".strip()


def _properties(parent: ET.Element, entries: list[tuple[str, str]]) -> None:
    properties = ET.SubElement(parent, "properties")
    for name, value in entries:
        ET.SubElement(properties, "property", name=_text(name), value=_text(value))


def _text(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
