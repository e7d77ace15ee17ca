"""Names of figures for readers: the test appears only where it distinguishes figures."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

_WITHOUT_TEST = ["metric", "parameters", "unit", "better"]
Test = tuple[str, str]  # suite and test


def variants(table: pd.DataFrame) -> list[str]:
    """For each row the part of its test that other figures of the metric and parameters lack; "" if
    only one test has the metric and parameters. See labels_of_tests().

    table: the columns suite, test, metric, parameters, unit, and better if it has that.
    """
    names = [name for name in _WITHOUT_TEST if name in table]
    keys = [tuple(map(str, row)) for row in table[names].itertuples(index=False, name=None)]
    named = zip(table["suite"], table["test"], strict=True)
    tests = [(str(suite), str(test)) for suite, test in named]
    by_key: dict[tuple[str, ...], set[Test]] = {}
    for key, test in zip(keys, tests, strict=True):
        by_key.setdefault(key, set()).add(test)
    labels = {key: labels_of_tests(of_key) for key, of_key in by_key.items()}
    return [labels[key][test] for key, test in zip(keys, tests, strict=True)]


def labels_of_tests(tests: Iterable[Test]) -> dict[Test, str]:
    """The shortest label that distinguishes each test from the others; "" for a single one.

    That is the test's own parameters ("4k"), or its function, or its node id, or its suite as well.
    """
    known = sorted(set(tests))
    if len(known) == 1:
        return {known[0]: ""}
    forms = [[_short(test) for _, test in known], [test for _, test in known]]
    if len({test.partition("[")[0] for _, test in known}) == 1:
        forms.insert(0, [_parameters(test) for _, test in known])
    for labels in forms:
        if len(set(labels)) == len(known):
            return dict(zip(known, labels, strict=True))
    return {(suite, test): f"{suite}: {test}" for suite, test in known}


def _parameters(test: str) -> str:
    return test.partition("[")[2].removesuffix("]") or "no parameters"


def _short(test: str) -> str:
    """Function and parameters without the path."""
    function, bracket, parameters = test.partition("[")
    return function.rpartition("::")[2] + bracket + parameters
