"""Formatting of numbers, times, intervals and names for readers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from datetime import datetime

_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_IN_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}

NONE = "–"


def number(value: float, digits: int = 3) -> str:
    """At least `digits` significant digits, thousands separators, no exponent; – for NaN."""
    if not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{min(places, 6)}f}"
    return text.replace("-", "−")


def time(value: float, unit: str) -> str:
    """A time in a suitable unit: 7612000 ns -> "7.61 ms"."""
    seconds = value * _IN_SECONDS[unit]
    if not math.isfinite(seconds):
        return NONE
    scale, name = next((pair for pair in _TIMES if abs(seconds) >= pair[0]), _TIMES[-1])
    return f"{number(seconds / scale)} {name}"


def round_quantity(value: float, unit: str) -> str:
    """A tick label without superfluous digits: 20000 ns -> "20 µs"."""
    if unit not in _IN_SECONDS:
        return f"{value:,.6g} {unit}".strip()
    seconds = value * _IN_SECONDS[unit]
    scale, name = next((pair for pair in _TIMES if seconds >= pair[0] * 0.999), _TIMES[-1])
    return f"{seconds / scale:,.6g} {name}"


def quantity(value: float, unit: str) -> str:
    """A value with its unit; a time in a suitable unit."""
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


def percentile(number: float) -> str:
    """95 -> "p95"; the last one is the maximum."""
    return "maximum" if number == 100 else f"p{number:g}"


def whole_percent(share: float) -> str:
    """A round share: 0.05 -> "5 %"."""
    return f"{share * 100:.0f} %"


def time_interval(low: float, high: float, unit: str) -> str:
    """An interval of times in a unit that suits its upper end; – for NaN."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return NONE
    top = max(abs(low), abs(high)) * _IN_SECONDS[unit]
    scale, name = next((pair for pair in _TIMES if top >= pair[0]), _TIMES[-1])
    factor = _IN_SECONDS[unit] / scale
    return interval(low * factor, high * factor, name)


def interval(low: float, high: float, unit: str = "") -> str:
    """An interval: "1.2 to 1.5 ms"; – for NaN."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return NONE
    suffix = f" {unit}" if unit else ""
    return f"{number(low)} to {number(high)}{suffix}"


def count(number: float, one: str, many: str = "") -> str:
    """A number with its noun: "1 boot", "5 boots", "2.5 tiles"."""
    digits = f"{number:,}" if isinstance(number, int) else f"{number:,g}"
    return f"{digits} {one if number == 1 else many or one + 's'}"


def merged(lines: Iterable[str]) -> list[str]:
    """Each line once, with the number of its repetitions."""
    return [line if n == 1 else f"{line} ({n} times)" for line, n in Counter(lines).items()]


def memory(mebibytes: float) -> str:
    return f"{mebibytes / 1024:.1f} GiB" if mebibytes >= 1024 else f"{mebibytes:.0f} MiB"


def blocks(size: int) -> str:
    """A block size in bytes in fio's notation: 4096 -> "4k"."""
    for unit, letter in ((2**20, "m"), (2**10, "k")):
        if size and size % unit == 0:
            return f"{size // unit}{letter}"
    return str(size)


def setting(parameters: dict[str, str | int | float]) -> str:
    """Parameters as text: "randread 4k, depth 32" for fio, "memory 256, vcpus 1" for others."""
    rest = dict(parameters)
    if isinstance(rest.get("bs"), int):
        rest["bs"] = blocks(int(rest["bs"]))
    first = " ".join(str(rest.pop(key)) for key in ("rw", "bs") if key in rest)
    others = [f"{key} {value}" for key, value in sorted(rest.items())]
    return ", ".join(part for part in [first, *others] if part)


def date(iso: str, form: str = "%b %Y") -> str:
    """Day and `form` of an ISO time: "2 Jan 2026"; other text is returned as it is."""
    try:
        moment = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    return f"{moment.day} {moment:{form}}"


def signed(share: float) -> str:
    """A change with its sign: 0.123 -> "+12 %"."""
    return f"+{percent(share)}" if share > 0 else percent(share)


def worse_or_better(overhead: float) -> str:
    """An overhead in words: 0.5 -> "50 % worse", -0.93 -> "93 % better"; – for NaN."""
    if not math.isfinite(overhead):
        return NONE
    shown = percent(abs(overhead))
    return shown if overhead == 0 else f"{shown} {'worse' if overhead > 0 else 'better'}"


def signed_interval(low: float, high: float) -> str:
    """An interval of changes: "+4.1 to +12 %"; – for NaN."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return NONE
    return f"{signed(low).removesuffix(' %')} to {signed(high)}"


def unit(name: str) -> str:
    """The unit with the micro sign: "us" -> "µs"."""
    return name.replace("us", "µs") if name == "us" or name.startswith("us/") else name


def truncated(text: str, length: int) -> str:
    """At most `length` characters, with an ellipsis when cut."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def shortened(text: str, length: int) -> str:
    """At most `length` characters: the start and the end, which tell names of hosts apart."""
    if len(text) <= length:
        return text
    tail = max(1, length // 2)
    return f"{text[: max(1, length - tail - 1)]}…{text[-tail:]}"


def printable(text: str) -> str:
    """One line without control characters and changes of the writing direction."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
