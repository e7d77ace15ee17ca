"""Strict reading of TOML: every key is known, and every value has its type and its range."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from harness.errors import PlanError

_MAX_BYTES = 64 << 20
_MAX_NAME = 256
_MAX_LIST = 1_000_000


class TomlTable:
    """One table of a file. `finish` refuses the keys that nothing has asked for."""

    def __init__(self, path: Path, name: str, content: Mapping[str, Any]) -> None:
        """name: of the table, "" for the file itself."""
        self._path = path
        self._name = name
        self._content = content
        self._known: set[str] = set()

    @classmethod
    def read(cls, path: Path) -> TomlTable:
        """The file as a table. Raises PlanError."""
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise PlanError(
                    f"{path} is larger than {_MAX_BYTES >> 20} MiB", hint="name a TOML file"
                )
            content = tomllib.loads(path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            if isinstance(error, PlanError):
                raise
            raise PlanError(f"{path} cannot be read: {error}", hint="name a TOML file") from error
        return cls(path, "", content)

    def error(self, problem: str, hint: str) -> PlanError:
        return PlanError(f"{self._path}: {problem}", hint=hint)

    def label(self, key: str) -> str:
        return f"{self._name}.{key}" if self._name else key

    def __contains__(self, key: str) -> bool:
        return key in self._content

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """A number in a range. Without a default it is required."""
        value = self.optional_number(key, low, high)
        if value is None:
            value = default
        if value is None:
            raise self.error(
                f"{self.label(key)} is missing", f"add {key} = a number from {low:g} to {high:g}"
            )
        return value

    def optional_number(self, key: str, low: float, high: float) -> float | None:
        value = self._get(key)
        if value is None:
            return None
        # a bool is an int in Python, but not in TOML
        if type(value) not in (int, float) or not low <= value <= high:
            raise self.error(
                f"{self.label(key)} = {_short(value)}", f"give a number from {low:g} to {high:g}"
            )
        return float(value)

    def whole(self, key: str, low: int, high: int, default: int | None = None) -> int | None:
        value = self._get(key)
        if value is None:
            return default
        if type(value) is not int or not low <= value <= high:
            raise self.error(
                f"{self.label(key)} = {_short(value)}",
                f"give a whole number from {low} to {high}",
            )
        return value

    def text(self, key: str, default: str | None = None) -> str | None:
        value = self._get(key)
        return default if value is None else self._name_of(key, value)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of names; empty without the key."""
        return tuple(self._name_of(key, one) for one in self._list(key))

    def groups(self, key: str) -> tuple[tuple[str, ...], ...]:
        """A list of lists of names."""
        return tuple(
            tuple(self._name_of(key, name) for name in self._as_list(key, group))
            for group in self._list(key)
        )

    def numbers(self, key: str, count: int, low: float, high: float) -> tuple[float, ...]:
        """A list of exactly so many numbers; empty without the key."""
        values = self._list(key)
        good = all(type(one) in (int, float) and low <= one <= high for one in values)
        if key in self and (len(values) != count or not good):
            raise self.error(
                f"{self.label(key)} = {_short(values)}",
                f"give {count} numbers from {low:g} to {high:g}",
            )
        return tuple(float(one) for one in values)

    def table(self, key: str) -> TomlTable:
        """A table; empty without the key."""
        value = self._get(key)
        if value is not None and not isinstance(value, dict):
            raise self.error(
                f"{self.label(key)} = {_short(value)}", f"write a table [{self.label(key)}]"
            )
        return TomlTable(self._path, self.label(key), value or {})

    def tables(self) -> Iterator[tuple[str, TomlTable]]:
        """All entries, which must be tables, by name."""
        for key in self._content:
            yield self._name_of(key, key), self.table(key)

    def keys(self) -> Iterator[str]:
        """All keys, which are names."""
        for key in self._content:
            yield self._name_of(key, key)

    def finish(self) -> None:
        """Refuse unknown keys."""
        for key in self._content:
            if key not in self._known:
                close = get_close_matches(key, self._known, 1) or sorted(self._known)
                raise self.error(
                    f"the unknown key {self.label(key)[:_MAX_NAME]}", f"use {', '.join(close)}"
                )

    def _get(self, key: str) -> Any:
        self._known.add(key)
        return self._content.get(key)

    def _list(self, key: str) -> list[Any]:
        value = self._get(key)
        return [] if value is None else self._as_list(key, value)

    def _as_list(self, key: str, value: Any) -> list[Any]:
        if not isinstance(value, list) or len(value) > _MAX_LIST:
            raise self.error(f"{self.label(key)} = {_short(value)}", "write a list: [...]")
        return value

    def _name_of(self, key: str, value: Any) -> str:
        good = isinstance(value, str) and 0 < len(value) <= _MAX_NAME and value.isprintable()
        if not good:
            raise self.error(
                f"{self.label(key)} has {_short(value)}",
                f"give 1 to {_MAX_NAME} printable characters in quotes",
            )
        return str(value)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
