"""Numbers in words that are read without a second thought."""

from __future__ import annotations

import math
from datetime import datetime

_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_IN_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}

NONE = "–"


def number(value: float, digits: int = 3) -> str:
    """At least `digits` significant digits, thousands separated, no exponent; – when NaN."""
    if not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{min(places, 6)}f}"
    return text.replace("-", "−")


def time(value: float, unit: str) -> str:
    """A time in the unit that suits it: 7612000 ns -> "7.61 ms"."""
    seconds = value * _IN_SECONDS[unit]
    if not math.isfinite(seconds):
        return NONE
    scale, name = next((pair for pair in _TIMES if abs(seconds) >= pair[0]), _TIMES[-1])
    return f"{number(seconds / scale)} {name}"


def round_quantity(value: float, unit: str) -> str:
    """A round value of an axis, with no more digits than it needs: 20000 ns -> "20 µs"."""
    if unit not in _IN_SECONDS:
        return f"{value:,.6g} {unit}".strip()
    seconds = value * _IN_SECONDS[unit]
    scale, name = next((pair for pair in _TIMES if seconds >= pair[0] * 0.999), _TIMES[-1])
    return f"{seconds / scale:,.6g} {name}"


def quantity(value: float, unit: str) -> str:
    """A value with its unit; times in the unit that suits them."""
    if unit in _IN_SECONDS:
        return time(value, unit)
    if unit == "%":
        return f"{number(value, 2)} %"
    return f"{number(value)} {unit}".strip()


def percent(share: float) -> str:
    """0.123 -> "12 %", with a decimal below 10 %."""
    if not math.isfinite(share):
        return NONE
    value = share * 100
    return f"{value:,.{0 if abs(value) >= 9.95 else 1}f} %".replace("-", "−")


def times(low: float, high: float, unit: str) -> str:
    """An interval of times in the unit that suits its upper end; – when there is none."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return NONE
    top = max(abs(low), abs(high)) * _IN_SECONDS[unit]
    scale, name = next((pair for pair in _TIMES if top >= pair[0]), _TIMES[-1])
    factor = _IN_SECONDS[unit] / scale
    return span(low * factor, high * factor, name)


def span(low: float, high: float, unit: str = "") -> str:
    """An interval; – when there is none."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return NONE
    tail = f" {unit}" if unit else ""
    return f"{number(low)} to {number(high)}{tail}"


def count(number: int, one: str, many: str = "") -> str:
    """ "1 boot", "5 boots"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def memory(mebibytes: float) -> str:
    return f"{mebibytes / 1024:.1f} GiB" if mebibytes >= 1024 else f"{mebibytes:.0f} MiB"


def blocks(size: int) -> str:
    """A block size in bytes as fio writes it: 4096 -> "4k"."""
    for unit, letter in ((2**20, "m"), (2**10, "k")):
        if size and size % unit == 0:
            return f"{size // unit}{letter}"
    return str(size)


def setting(parameters: dict[str, str | int | float]) -> str:
    """ "randread 4k, depth 32" for fio's, "memory 256, vcpus 1" for others."""
    rest = dict(parameters)
    if isinstance(rest.get("bs"), int):
        rest["bs"] = blocks(int(rest["bs"]))
    first = " ".join(str(rest.pop(key)) for key in ("rw", "bs") if key in rest)
    others = [f"{key} {value}" for key, value in sorted(rest.items())]
    return ", ".join(part for part in [first, *others] if part)


def date(iso: str, form: str = "%b %Y") -> str:
    """ "2 Jan 2026", the day before what `form` makes; the text itself when it is no time."""
    try:
        moment = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    return f"{moment.day} {moment:{form}}"


def signed(share: float) -> str:
    """0.123 -> "+12 %": a change."""
    return f"+{percent(share)}" if share > 0 else percent(share)


def shares(low: float, high: float) -> str:
    """An interval of changes; – when there is none."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return NONE
    return f"{signed(low).removesuffix(' %')} to {signed(high)}"


def unit(name: str) -> str:
    """As it is written."""
    return name.replace("us", "µs") if name == "us" or name.startswith("us/") else name


def short(words: str, most: int) -> str:
    """At most so many characters."""
    return words if len(words) <= most else words[: most - 1].rstrip() + "…"


def plain(words: str) -> str:
    """One line without what moves a cursor, rings a bell or turns the direction of writing."""
    return " ".join("".join(c if c.isprintable() else " " for c in words).split())
