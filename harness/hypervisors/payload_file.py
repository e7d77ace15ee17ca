"""Reads a payload's ELF file on the controller, before the machine is created."""

from __future__ import annotations

from harness.errors import ProvisionError
from harness.kvm.errors import ConfigError
from harness.vmm.boot import elf


def parse_elf(data: bytes) -> elf.ElfImage:
    """The loadable segments of an x86 ELF file. Raises ProvisionError (stage "create")."""
    try:
        return elf.parse(data)
    except ConfigError as error:
        raise ProvisionError(error.cause, hint=error.hint, stage="create") from error
