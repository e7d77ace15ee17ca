"""A vCPU in a test's hands: registers and single steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

from harness.errors import HarnessError, hide_frames

__tracebackhide__ = hide_frames
STEP_TIMEOUT = 5.0  # seconds

# SupportsIntrospection.ask: an operation and its arguments by name
Ask = Callable[..., Any]


class Registers(Mapping[str, Any]):
    """The registers at the time of the read: `regs.rax`, `regs["rax"]`, `dict(regs)`.

    An assignment sets the vCPU's register at once: `regs.rax = 5`. Segments and tables have
    read-only fields: `sregs.cs.base`, `sregs.idt.limit`.
    """

    _values: dict[str, Any]
    _set: Callable[[dict[str, int]], object]

    def __init__(self, values: dict[str, Any], set_values: Callable[[dict[str, int]], Any]) -> None:
        object.__setattr__(self, "_values", values)
        object.__setattr__(self, "_set", set_values)

    def __getitem__(self, name: str) -> Any:
        value = self._values[name]
        return SimpleNamespace(**value) if isinstance(value, dict) else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(
                f"no register {name!r}; the registers are {', '.join(self)}"
            ) from None

    def __setattr__(self, name: str, value: int) -> None:
        self.update({name: value})

    def update(self, values: Mapping[str, int]) -> None:
        """Set several registers at once.

        Raises AttributeError for an unknown name, HarnessError for a value that a CPU cannot have.
        """
        for name in values:
            if name not in self._values:
                raise AttributeError(f"no register {name!r}; the registers are {', '.join(self)}")
        self._set(dict(values))
        self._values.update(values)

    def __repr__(self) -> str:
        fields = (f"{name}={value:#x}" for name, value in self.items() if isinstance(value, int))
        return f"<{' '.join(fields)}>"


class Vcpu:
    """One vCPU. A read of its registers interrupts a running vCPU for a moment."""

    def __init__(self, ask: Ask, index: int) -> None:
        self._ask = ask
        self.index = index

    @property
    def regs(self) -> Registers:
        """The general registers with rip and rflags."""
        return self._registers("regs")

    @property
    def sregs(self) -> Registers:
        """Segments, tables, control registers and EFER.

        Only control registers and EFER can be set.
        """
        return self._registers("sregs")

    def _registers(self, kind: str) -> Registers:
        values = self._ask("registers", vcpu=self.index)[kind]
        return Registers(
            values, lambda new: self._ask("set_registers", vcpu=self.index, values=new)
        )

    def step(self, n: int = 1) -> None:
        """Run n instructions of a paused vCPU.

        Raises HarnessError when an instruction does not end, for example in a halted vCPU, or when
        KVM cannot single-step.
        """
        for _ in range(n):
            deadline = time.monotonic() + STEP_TIMEOUT
            while not self._ask("step", vcpu=self.index):
                if time.monotonic() > deadline:
                    self._ask("step", vcpu=self.index, cancel=True)
                    raise HarnessError(
                        f"vCPU {self.index} did not end an instruction in {STEP_TIMEOUT:g} s",
                        hint="read its registers: a halted vCPU cannot step",
                        stage="run",
                    )

    def __repr__(self) -> str:
        return f"<vCPU {self.index}>"
