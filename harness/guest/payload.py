"""Payload guests: flat code or an ELF file without kernel, image and SSH. They start in ms."""

from __future__ import annotations

import inspect
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
# default load addresses of flat code by CPU mode
BASES = {"real": 0x7C00, "protected": 0x10_0000, "long": 0x10_0000}
_ELF_MODES = {32: "protected", 64: "long"}  # by the class of an ELF file
# by mode: the assembler's directive and option, the linker's emulation
_TOOLS = {
    "real": (".code16", "--32", "elf_i386"),
    "protected": (".code32", "--32", "elf_i386"),
    "long": (".code64", "--64", "elf_x86_64"),
}


class PayloadGuest(BaseGuest):
    """A running payload.

    Attributes:
        name, spec: what the guest consists of.
        console: the lines that it writes to the serial port (0x3f8).
        ended: an event that is set at its end; `end` then describes the end.
        vm: VM introspection.

    A power-off (0x2000 | 5 << 10 to port 0x604) always counts as an expected end.
    """

    def __init__(
        self, hypervisor: SupportsPayloads, spec: PayloadSpec, console: Path | None
    ) -> None:
        self.spec = spec
        super().__init__(spec, partial(hypervisor.create_payload, spec), console)

    @property
    def ended_unexpectedly(self) -> bool:
        """See BaseGuest."""
        power_off = self.end is not None and self.end.reason == "power-off"
        return super().ended_unexpectedly and not power_off

    def start(self) -> None:
        """Run a payload that was created with start=False."""
        self.vm.resume()


def assemble(source: str, mode: str = "protected", base: int | None = None) -> bytes:
    """Assemble GNU assembly into flat machine code for the address `base`.

    base: the default load address of the mode if None. Raises ProvisionError (stage "create") with
    the assembler's messages, or when binutils is missing.
    """
    directive, option, emulation = _TOOLS[mode]
    address = BASES[mode] if base is None else base
    with scratch.directory() as folder:
        code, object_file, flat = (str(folder / f"code.{kind}") for kind in ("s", "o", "bin"))
        text = f"{directive}\n.globl _start\n_start:\n{source}\n"
        (folder / "code.s").write_text(text, encoding="utf-8")
        link = [
            "-m",
            emulation,
            f"-Ttext={address:#x}",
            "--oformat=binary",
            "-o",
            flat,
            object_file,
        ]
        for argv in (["as", option, "-o", object_file, code], ["ld", *link]):
            try:
                subprocess.run(argv, check=True, capture_output=True, text=True)
            except FileNotFoundError:
                raise ProvisionError(
                    f"the program {argv[0]} is missing",
                    hint="install binutils",
                    stage="create",
                ) from None
            except subprocess.CalledProcessError as error:
                raise ProvisionError(
                    f"{argv[0]} fails: {error.stderr.strip()}",
                    hint="correct the assembly source",
                    stage="create",
                ) from None
        return Path(flat).read_bytes()


@dataclass
class PayloadFactory:
    """The type of the fixture `payload`: creates payload guests, which run until the test's end.

    Args:
        prefix, numbers, label: the parts of their names; see guest_name().
        consoles, on_create: see GuestFactory.
        arguments: defaults for build_spec().
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

        The arguments are those of build_spec(). Raises ProvisionError (stage "create").
        """
        with scratch.directory() as folder:
            return self.start(build_spec(code, folder, **{**self.arguments, **arguments}))

    def start(self, spec: PayloadSpec) -> PayloadGuest:
        """Run a payload from its specification, under a new name. Raises ProvisionError."""
        name = guest_name(f"{self.prefix}-payload", next(self.numbers), self.label)
        console = self.consoles / f"{name}.log" if self.consoles else None
        guest = PayloadGuest(self.hypervisor, replace(spec, name=name), console)
        self.on_create(guest)
        return guest


def payload_options() -> list[str]:
    """The names of build_spec()'s options, which the marker payload takes."""
    parameters = inspect.signature(build_spec).parameters.values()
    return [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]


def build_spec(
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
    """Build the specification of a payload.

    code: see PayloadFactory; bytes are written to a file in `folder`. mode: "real", "protected" or
    "long" (default: the ELF file's, else "protected"). base: the load address of flat code. entry:
    the entry point (default: the ELF file's, else base). memory: MiB. exit_limit: see GuestSpec.
    start: False to wait for `start()`. eventfds, cpus: see PayloadSpec.
    Raises ProvisionError (stage "create").
    """
    if not isinstance(eventfds, Mapping | None):
        raise ProvisionError(
            f"eventfds={eventfds!r:.80} is not a mapping",
            hint="pass {address: vector}, with vector 0 for no interrupt",
            stage="create",
        )
    layout = _lay_out(code, folder, mode, base)
    return PayloadSpec(
        name="payload",
        segments=layout.segments,
        mode=layout.mode,
        entry=layout.entry if entry is None else entry,
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


@dataclass(frozen=True)
class _Layout:
    """Where a payload's code lies in guest memory, and its default entry point."""

    segments: tuple[Segment, ...]
    mode: str
    entry: int


def _lay_out(code: bytes | Path | str, folder: Path, mode: str | None, base: int | None) -> _Layout:
    """See build_spec()."""
    path = folder / "payload" if isinstance(code, bytes) else Path(code)
    if isinstance(code, bytes):
        path.write_bytes(code)
    elif not path.is_file():
        raise ProvisionError(
            f"the payload {path} is not a file", hint="check the path", stage="create"
        )
    data = path.read_bytes()
    if not data.startswith(elf.MAGIC):
        mode = mode or "protected"
        base = BASES.get(mode, 0) if base is None else base
        return _Layout((Segment(base, path, 0, len(data)),), mode, base)
    if base is not None:
        raise ProvisionError(
            f"base={base:#x} does not apply to an ELF file, which contains its addresses",
            hint="leave base out, or link the file for that address",
            stage="create",
        )
    loaded = parse_elf(data)
    segments = tuple(Segment(gpa, path, offset, size) for gpa, offset, size in loaded.segments)
    return _Layout(segments, mode or _ELF_MODES[loaded.bits], loaded.entry)
