"""Fuzzes the parts of the VMM that read data of a guest or a client.

    python -m tests.vmm.fuzz --inputs 1000000

A target takes its decisions from the bytes of an input. It may return, or raise one of `ALLOWED`.
Another exception, a hang, or an access outside guest memory is a bug.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import TypeVar

from harness.kvm.errors import ConfigError, GuestFault, MachineEnd

T = TypeVar("T")

ALLOWED = (GuestFault, ConfigError, MachineEnd)
HANG = 60.0  # seconds; far more than any input needs, also on a slow machine


class Hang(BaseException):
    """An input takes too long. Not an Exception, so that no handler catches it."""


class Source:
    """Takes decisions from bytes. Once they are used up, every decision is 0."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def raw(self, count: int) -> bytes:
        piece = self._data[self._at : self._at + count]
        self._at += count
        return piece.ljust(count, b"\0")

    def bits(self, count: int) -> int:
        return int.from_bytes(self.raw((count + 7) // 8), "little") & ((1 << count) - 1)

    def below(self, limit: int) -> int:
        return self.bits(8 if limit <= 256 else 32) % limit

    def chance(self) -> bool:
        return bool(self.bits(1))

    def pick(self, choices: Sequence[T]) -> T:
        return choices[self.below(len(choices))]

    def number(self, count: int) -> int:
        """A number of `count` bits: small, near a power of two, or any."""
        kind = self.below(4)
        if kind == 0:
            return self.below(20)
        if kind == 1:
            return self.bits(count)
        edge = 1 << self.below(count + 1)
        return (edge + self.below(5) - 2) & ((1 << count) - 1)


Target = Callable[[Source], None]


def _on_alarm(number: int, frame: FrameType | None) -> None:
    raise Hang(f"the input takes more than {HANG:g} s")


@contextlib.contextmanager
def hang_detection() -> Iterator[None]:
    """Raise Hang for an input that takes too long. For the main thread."""
    before = signal.signal(signal.SIGALRM, _on_alarm)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_input(target: Target, data: bytes) -> bool:
    """Run one input. True if the target returned, False if it refused the input. Call it within
    `hang_detection`."""
    signal.setitimer(signal.ITIMER_REAL, HANG)
    try:
        target(Source(data))
    except ALLOWED:
        return False
    return True


def main() -> int:
    from tests.vmm.targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument(
        "--inputs", type=int, default=100_000, metavar="N", help="how many inputs, over all targets"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=sorted(TARGETS), help="run this target only")
    parser.add_argument(
        "--input", type=bytes.fromhex, help="run this input only, as hexadecimal bytes"
    )
    options = parser.parse_args()
    names = [options.target] if options.target else sorted(TARGETS)
    chooser = random.Random(options.seed)  # noqa: S311
    passed, spent = dict.fromkeys(names, 0), dict.fromkeys(names, 0.0)
    with hang_detection():
        for count in range(1 if options.input is not None else options.inputs):
            name = names[count % len(names)]
            data = options.input
            if data is None:
                data = chooser.randbytes(int(2 ** chooser.uniform(2, 10)))
            began = time.perf_counter()
            try:
                passed[name] += run_input(TARGETS[name], data)
            except BaseException:
                print(f"failed: --target {name} --input {data.hex()}", file=sys.stderr)
                raise
            spent[name] += time.perf_counter() - began
    for name in names:
        print(f"{name:10} {passed[name]:8} accepted {spent[name]:8.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
