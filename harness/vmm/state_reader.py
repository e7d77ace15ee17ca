"""Device state as JSON: written from attributes, and checked field by field when it is read."""

from __future__ import annotations

import base64
from typing import Any

from harness.kvm.errors import ConfigError

HINT = "create the snapshot again"
_BYTES = (bytes, bytearray, memoryview)


def encode_bytes(data: bytes | bytearray | memoryview) -> str:
    """Bytes as base64 text."""
    return base64.b64encode(data).decode("ascii")


def encode_fields(values: dict[str, Any]) -> dict[str, Any]:
    """The same fields with all bytes encoded."""
    return {
        name: encode_bytes(value) if isinstance(value, _BYTES) else value
        for name, value in values.items()
    }


def save_attributes(device: Any) -> dict[str, Any]:
    """The attributes that the device's STATE lists, encoded. StateReader.restore_attributes reads
    them."""
    return encode_fields({name: getattr(device, name) for name in device.STATE})


class StateReader:
    """One object of a state file. Every method raises ConfigError for a field that is wrong."""

    def __init__(self, path: str, fields: Any) -> None:
        """path: where the object lies in the file, for error messages."""
        self._path = path
        if not isinstance(fields, dict):
            raise ConfigError(f"snapshot: {path} is no object", HINT)
        self._fields = fields

    def restore_attributes(self, device: Any) -> None:
        """Set the attributes that save_attributes() saved.

        STATE maps each attribute to a limit. An integer, or each integer of a list, is below its
        limit. Bytes have at most as many bytes as the limit, or with limit 0 exactly as many as the
        attribute has now.
        """
        for name, limit in device.STATE.items():
            now = getattr(device, name)
            if isinstance(now, (bytearray, memoryview)):
                now[:] = self.read_bytes(name, None if limit else len(now))
                if limit and len(now) > limit:
                    raise self.error(name, f"more than {limit} bytes")
            elif isinstance(now, list):
                setattr(device, name, self.read_ints(name, len(now), limit))
            else:
                setattr(device, name, type(now)(self.read_int(name, limit, type(now))))

    def error(self, name: str, problem: str) -> ConfigError:
        """The error to raise for a field that is wrong."""
        return ConfigError(f"snapshot: {self._path}.{name}: {problem}", HINT)

    def read_value(self, name: str, kind: type) -> Any:
        """A field of that type. The caller checks its value."""
        value = self._fields.get(name)
        if type(value) is not kind:
            raise self.error(name, f"no {kind.__name__}: {value!r:.40}")
        return value

    def read_int(self, name: str, limit: int, kind: type = int) -> int:
        """An integer from 0 to limit - 1. kind: int or bool."""
        value: int = self.read_value(name, kind)
        if not 0 <= value < limit:
            raise self.error(name, f"{value} is not below {limit}")
        return value

    def read_bytes(self, name: str, size: int | None) -> bytes:
        """Bytes. size: how many there must be, None for any number."""
        try:
            data = base64.b64decode(self.read_value(name, str), validate=True)
        except ValueError:
            raise self.error(name, "no bytes") from None
        if size is not None and len(data) != size:
            raise self.error(name, f"{len(data)} bytes, not {size}")
        return data

    def read_ints(self, name: str, count: int, limit: int) -> list[int]:
        """A list of `count` integers from 0 to limit - 1."""
        value: list[int] = self.read_value(name, list)
        if len(value) != count or not all(type(one) is int and 0 <= one < limit for one in value):
            raise self.error(name, f"no {count} numbers below {limit}: {value!r:.40}")
        return value

    def read_object(self, name: str) -> StateReader:
        """A nested object."""
        return StateReader(f"{self._path}.{name}", self._fields.get(name))

    def read_objects(self, name: str, count: int) -> list[StateReader]:
        """A list of `count` nested objects."""
        value = self.read_value(name, list)
        if len(value) != count:
            raise self.error(name, f"{len(value)} of {count}")
        return [StateReader(f"{self._path}.{name}[{at}]", one) for at, one in enumerate(value)]
