"""Protection against formula injection: a spreadsheet runs CSV text that begins like a formula."""

from __future__ import annotations

import pandas as pd

FORMULA_START = r"^[=+\-@\t\r]"  # also valid as a regular expression of JavaScript


def guard_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with an apostrophe before each text that begins like a formula."""
    types = pd.api.types
    guarded: dict[str, pd.Series] = {}
    for name in frame:
        column = frame[name]
        if types.is_numeric_dtype(column) or types.is_datetime64_any_dtype(column):
            continue
        # Names of samples repeat: the check of the distinct ones is cheap.
        if column.drop_duplicates().astype(str).str.match(FORMULA_START).any():
            text = column.astype(str)
            guarded[str(name)] = text.str.replace(f"({FORMULA_START})", r"'\1", regex=True)
    return frame.assign(**guarded)
