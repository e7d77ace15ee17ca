"""State as JSON: what devices keep, and a state file whose fields are checked as they are read."""

from __future__ import annotations

import base64
from typing import Any

from harness.kvm.errors import ConfigError

HINT = "make the snapshot anew"
_BYTES = (bytes, bytearray, memoryview)


def pack(data: bytes | bytearray | memoryview) -> str:
    """Bytes as JSON can hold them."""
    return base64.b64encode(data).decode("ascii")


def packed(values: dict[str, Any]) -> dict[str, Any]:
    """The same with all bytes packed."""
    return {
        name: pack(value) if isinstance(value, _BYTES) else value for name, value in values.items()
    }


def save(device: Any) -> dict[str, Any]:
    """The attributes that the device's STATE names; see StateReader.into."""
    return packed({name: getattr(device, name) for name in device.STATE})


class StateReader:
    """One object of a state file; every method raises ConfigError for what cannot be."""

    def __init__(self, where: str, fields: Any) -> None:
        """where: names it in errors."""
        self._where = where
        if not isinstance(fields, dict):
            raise ConfigError(f"snapshot: {where} is no object", HINT)
        self._fields = fields

    def into(self, device: Any) -> None:
        """Set the attributes that save() kept. STATE has a limit for each: a number, or every
        number of a list, is below it; bytes are at most so many, or exactly as many as there are
        now if it is 0."""
        for name, limit in device.STATE.items():
            now = getattr(device, name)
            if isinstance(now, (bytearray, memoryview)):
                now[:] = self.data(name, None if limit else len(now))
                if limit and len(now) > limit:
                    raise self.error(name, f"more than {limit} bytes")
            elif isinstance(now, list):
                setattr(device, name, self.numbers(name, len(now), limit))
            else:
                setattr(device, name, type(now)(self.number(name, limit, type(now))))

    def error(self, name: str, what: str) -> ConfigError:
        return ConfigError(f"snapshot: {self._where}.{name}: {what}", HINT)

    def field(self, name: str, kind: type) -> Any:
        """A field of that type, of which the caller checks the rest."""
        value = self._fields.get(name)
        if type(value) is not kind:
            raise self.error(name, f"no {kind.__name__}: {value!r:.40}")
        return value

    def number(self, name: str, limit: int, kind: type = int) -> int:
        """A number from 0 to limit - 1; kind: int or bool."""
        value: int = self.field(name, kind)
        if not 0 <= value < limit:
            raise self.error(name, f"{value} is not below {limit}")
        return value

    def data(self, name: str, size: int | None) -> bytes:
        """Bytes, `size` of them if it is given."""
        try:
            data = base64.b64decode(self.field(name, str), validate=True)
        except ValueError:
            raise self.error(name, "no bytes") from None
        if size is not None and len(data) != size:
            raise self.error(name, f"{len(data)} bytes, not {size}")
        return data

    def numbers(self, name: str, count: int, limit: int) -> list[int]:
        """A list of that many numbers from 0 to limit - 1."""
        value: list[int] = self.field(name, list)
        if len(value) != count or not all(type(one) is int and 0 <= one < limit for one in value):
            raise self.error(name, f"no {count} numbers below {limit}: {value!r:.40}")
        return value

    def part(self, name: str) -> StateReader:
        return StateReader(f"{self._where}.{name}", self._fields.get(name))

    def parts(self, name: str, count: int) -> list[StateReader]:
        """A list of that many objects."""
        value = self.field(name, list)
        if len(value) != count:
            raise self.error(name, f"{len(value)} of {count}")
        return [StateReader(f"{self._where}.{name}[{at}]", one) for at, one in enumerate(value)]
