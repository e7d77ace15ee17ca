"""What the tests and suites of this checkout need besides the plugin."""

from __future__ import annotations

import re

import pytest

pytest_plugins = ("pytester",)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out slow and long tests unless they are asked for; see CONTRIBUTING.md."""
    expression = set(re.findall(r"\w+", config.option.markexpr))
    unwanted = ({"slow", "long"} if expression else {"long"}) - expression
    by_id = {argument for argument in config.args if "::" in argument}
    deselected = [
        item
        for item in items
        if any(map(item.get_closest_marker, unwanted))
        and not any(item.nodeid.startswith(argument) for argument in by_id)
    ]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if item not in deselected]
