"""Flat code as a guest: bytes or an ELF, no kernel, no image, no SSH; it runs in milliseconds."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness import scratch
from harness.errors import ProvisionError, hide_frames
from harness.guest.base import BaseGuest
from harness.guest.devices import PciDevice, PortDevice
from harness.guest.factory import guest_name
from harness.hypervisors.base import Disk, PayloadSpec, Segment
from harness.hypervisors.capabilities import SupportsPayloads
from harness.hypervisors.payload_file import parse_elf
from harness.vmm.boot import elf

__tracebackhide__ = hide_frames
# where flat code lies and starts, if nobody says otherwise
BASES = {"real": 0x7C00, "protected": 0x10_0000, "long": 0x10_0000}
_MODES = {32: "protected", 64: "long"}  # of an ELF
# the assembler's directive, its option, the linker's format
_TOOLS = {
    "real": (".code16", "--32", "elf_i386"),
    "protected": (".code32", "--32", "elf_i386"),
    "long": (".code64", "--64", "elf_x86_64"),
}


class PayloadGuest(BaseGuest):
    """A running payload.

    Attributes:
        name, spec: as it was ordered.
        console: the lines that it wrote to the serial port (0x3f8).
        ended: set when it came to its end; `end` then says how.
        vm: its registers, memory, exits and devices.

    A power-off (0x2000 | 5 << 10 to port 0x604) is an end that nobody need expect.
    """

    def __init__(
        self, hypervisor: SupportsPayloads, spec: PayloadSpec, console: Path | None
    ) -> None:
        self.spec = spec
        super().__init__(spec, partial(hypervisor.create_payload, spec), console)

    @property
    def ended_unexpectedly(self) -> bool:
        own = self.end is not None and self.end.reason == "power-off"
        return super().ended_unexpectedly and not own

    def start(self) -> None:
        """Let one that was made with start=False run."""
        self.vm.resume()


def assemble(source: str, mode: str = "protected", base: int | None = None) -> bytes:
    """Machine code of GNU assembly, to run at `base` (default: where a payload of that mode lies).

    Raises ProvisionError (stage "create") with the assembler's words, or without binutils.
    """
    directive, option, linked = _TOOLS[mode]
    at = BASES[mode] if base is None else base
    with scratch.directory() as folder:
        code, made, flat = (str(folder / f"code.{kind}") for kind in ("s", "o", "bin"))
        text = f"{directive}\n.globl _start\n_start:\n{source}\n"
        (folder / "code.s").write_text(text, encoding="utf-8")
        link = ["-m", linked, f"-Ttext={at:#x}", "--oformat=binary", "-o", flat, made]
        for argv in (["as", option, "-o", made, code], ["ld", *link]):
            try:
                subprocess.run(argv, check=True, capture_output=True, text=True)
            except FileNotFoundError:
                raise ProvisionError(
                    f"no {argv[0]} to assemble with", hint="install binutils", stage="create"
                ) from None
            except subprocess.CalledProcessError as error:
                raise ProvisionError(f"{argv[0]}: {error.stderr.strip()}", stage="create") from None
        return Path(flat).read_bytes()


@dataclass
class PayloadFactory:
    """What the fixture `payload` is: makes payload guests, which live until the test's end.

    Args:
        prefix, numbers, label: what names are made of. consoles, on_create: as of GuestFactory.
        arguments: of `make`, when nobody says otherwise.
    """

    hypervisor: SupportsPayloads
    prefix: str
    numbers: Iterator[int]
    label: str = ""
    consoles: Path | None = None
    on_create: Callable[[Any], None] = lambda guest: None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, code: bytes | Path | str, **arguments: Any) -> PayloadGuest:
        """Run `code`: flat bytes, an ELF of 32 or 64 bits, or the path of one of these.

        The arguments are those of `make`. Raises ProvisionError (stage "create").
        """
        with scratch.directory() as folder:
            return self.start(make(code, folder, **{**self.arguments, **arguments}))

    def start(self, spec: PayloadSpec) -> PayloadGuest:
        """Run what is laid out already; it gets a name of ours. Raises ProvisionError."""
        name = guest_name(f"{self.prefix}-payload", next(self.numbers), self.label)
        console = self.consoles / f"{name}.log" if self.consoles else None
        guest = PayloadGuest(self.hypervisor, replace(spec, name=name), console)
        self.on_create(guest)
        return guest


def make(
    code: bytes | Path | str,
    folder: Path,
    *,
    mode: str | None = None,
    entry: int | None = None,
    base: int | None = None,
    memory: int = 16,
    vcpus: int = 1,
    devices: Sequence[PciDevice | PortDevice] = (),
    disks: Sequence[Disk] = (),
    registers: Mapping[str, int] | None = None,
    exit_limit: int | None = None,
    start: bool = True,
    eventfds: Mapping[int, int] | None = None,
    cpus: Sequence[int] = (),
) -> PayloadSpec:
    """What a payload comes to; bytes are written into `folder`.

    mode: "real", "protected" or "long" (default: what an ELF is, else "protected"). base: where
    flat code lies. entry: where it starts (default: an ELF's own, else base). memory: MiB.
    exit_limit: exits to user space a second that end it; 0 for none, None for the VMM's default.
    start: False to run nothing before `start()`. eventfds, cpus: see PayloadSpec.
    """
    if not isinstance(eventfds, Mapping | None):
        raise ProvisionError(
            f"eventfds={eventfds!r:.80} is no mapping",
            hint="give {address: vector}, 0 for no interrupt",
            stage="create",
        )
    path = folder / "payload" if isinstance(code, bytes) else Path(code)
    if isinstance(code, bytes):
        path.write_bytes(code)
    elif not path.is_file():
        raise ProvisionError(f"payload {path} is no file", hint="check the path", stage="create")
    data = path.read_bytes()
    if data.startswith(elf.MAGIC):
        if base is not None:
            raise ProvisionError(
                f"base={base:#x} for an ELF file, which says by itself where it lies",
                hint="leave base out, or link it for that address",
                stage="create",
            )
        loaded = parse_elf(data)
        mode = mode or _MODES[loaded.bits]
        segments = tuple(Segment(gpa, path, at, size) for gpa, at, size in loaded.segments)
        entry = loaded.entry if entry is None else entry
    else:
        mode = mode or "protected"
        lies = BASES.get(mode, 0) if base is None else base
        segments = (Segment(lies, path, 0, len(data)),)
        entry = lies if entry is None else entry
    return PayloadSpec(
        name="payload",
        segments=segments,
        mode=mode,
        entry=entry,
        registers=dict(registers or {}),
        vcpus=vcpus,
        memory=memory,
        disks=tuple(disks),
        devices=tuple(devices),
        exit_limit=exit_limit,
        paused=not start,
        eventfds=dict(eventfds or {}),
        cpus=cpus,
    )
