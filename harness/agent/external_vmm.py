"""Starts another VMM's program with descriptors, an environment and a directory."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass, field
from typing import Any

from harness.kvm.errors import END_REASONS, ConfigError
from harness.vmm.config import DiskConfig, parse_dataclass
from harness.vmm.devices.virtio.vhost import open_vhost

from .control import Channel
from .directories import Directories
from .external_program import POWER_OFF, ExternalProgram
from .kvm_debugfs import KvmDebugfs
from .os_hints import os_hint
from .placeholders import contains_placeholder
from .process import child_setup
from .qmp_relay import QmpRelay
from .storage_daemon import StorageDaemon
from .tap import open_tap, tap_name

_EXIT_STATUS = re.compile(r"[0-9]{1,3}")


@dataclass
class ExternalVmmConfig:
    """The arguments of "exec": how to start the program.

    argv: its command line. environment: variables in addition to the agent's. files: name and text
    of files in its directory. All three may contain placeholders:

        {memory}     descriptor of an empty file for the guest's memory; the VMM resizes and maps it
        {tap}        descriptor of a tap on the guests' bridge; {vhost} of /dev/vhost-net
        {monitor}    descriptor of a socket; the VMM is the server of QMP on it
        {disk0}      descriptor of a socket to the vhost-user server of the first of `disks`
        {directory}  path of a private, temporary directory, which is removed after the end

    bridge: the bridge that the tap joins. exit_reasons: exit status (as text) to End.reason, for
    each status that is an orderly end.
    """

    argv: list[str]
    disks: list[DiskConfig] = field(default_factory=list)
    bridge: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    exit_reasons: dict[str, str] = field(default_factory=lambda: {"0": POWER_OFF})

    @classmethod
    def parse(cls, arguments: dict[str, Any]) -> ExternalVmmConfig:
        """Raises ConfigError."""
        config = parse_dataclass(cls, arguments)
        if not config.argv:
            raise ConfigError("exec needs argv, a list of strings", "pass the command line")
        for name in config.files:
            if os.path.basename(name) != name or name in ("", ".", ".."):
                raise ConfigError(f"{name!r:.80} is no file name", "use a name without a folder")
        for status, reason in config.exit_reasons.items():
            if not _EXIT_STATUS.fullmatch(status) or int(status) > 255:
                raise ConfigError(
                    f"exit_reasons has the key {status!r:.80}, which is no exit status",
                    "use numbers from 0 to 255 as keys",
                )
            if reason not in END_REASONS:
                raise ConfigError(
                    f"exit_reasons has the value {reason!r:.80}, which is no reason of an end",
                    f"use one of: {', '.join(END_REASONS)}",
                )
        return config

    def contains(self, placeholder: str) -> bool:
        """Whether any text of the configuration has that placeholder."""
        return contains_placeholder(placeholder, self.argv, self.environment, self.files)


class Resources:
    """The descriptors of one program, and the values of its placeholders."""

    def __init__(self) -> None:
        self.descriptors: list[int] = []
        self._values: dict[str, str] = {}

    def add_descriptor(self, name: str, descriptor: int) -> None:
        """Pass a descriptor, which this closes later."""
        self.descriptors.append(descriptor)
        self._values[f"{{{name}}}"] = str(descriptor)

    def add_text(self, name: str, text: str) -> None:
        self._values[f"{{{name}}}"] = text

    def fill(self, text: str) -> str:
        """The text with the values in place of the placeholders."""
        for placeholder, value in self._values.items():
            text = text.replace(placeholder, value)
        return text

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = []


def start_external_vmm(
    config: ExternalVmmConfig, channel: Channel, memory: int, directories: Directories
) -> ExternalProgram:
    """Start the program. The caller has entered the network of config.bridge.

    memory: descriptor of the memory file. Raises ConfigError.
    """
    try:
        return _start_external_vmm(config, channel, memory, directories)
    except OSError as error:
        cause = f"the host cannot start {config.argv[0]}: {error}"
        raise ConfigError(cause, os_hint(error)) from error


def _start_external_vmm(
    config: ExternalVmmConfig, channel: Channel, memory: int, directories: Directories
) -> ExternalProgram:
    """Raises ConfigError, OSError."""
    resources = Resources()
    port = None
    try:
        resources.add_descriptor("memory", memory)
        storage = StorageDaemon(config.disks) if config.disks else None
        for number, disk in enumerate(storage.sockets if storage else ()):
            resources.add_descriptor(f"disk{number}", disk.fileno())
        qmp = QmpRelay(channel) if config.contains("{monitor}") else None
        if qmp:
            resources.add_descriptor("monitor", qmp.vmm_socket.detach())
        if config.bridge:
            tap = open_tap(config.bridge)
            resources.add_descriptor("tap", tap)
            port = tap_name(tap)
        if config.contains("{vhost}"):
            resources.add_descriptor("vhost", open_vhost("vhost-net"))
        if config.files or config.contains("{directory}"):
            directory = _make_directory(directories, channel.guest)
            resources.add_text("directory", directory)
            for name, text in config.files.items():
                with open(f"{directory}/{name}", "w", encoding="utf-8") as file:
                    file.write(resources.fill(text))
        argv = [resources.fill(word) for word in config.argv]
        extra = {name: resources.fill(text) for name, text in config.environment.items()}
        process = _start(argv, {**os.environ, **extra}, resources.descriptors)
    finally:
        resources.close()
    return ExternalProgram(
        channel,
        process,
        {"vmm": os.path.basename(argv[0]), "sandbox": ["no new privileges"], "port": port},
        storage=storage,
        qmp=qmp,
        # A VMM without ACPI has no power-off. One with a monitor has, and its monitor can quit it.
        kill_halted=qmp is None,
        # by QMP, the controller reads KVM's counters itself
        kvm=None if qmp else KvmDebugfs(process.pid),
        exit_reasons={int(status): reason for status, reason in config.exit_reasons.items()},
    )


def _make_directory(directories: Directories, guest: str) -> str:
    try:
        return directories.make(guest)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        cause = f"no directory for the guest: {place}{error.strerror}"
        raise ConfigError(cause, os_hint(error)) from error


def _start(
    argv: list[str], environment: dict[str, str], descriptors: list[int]
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            argv,
            env=environment,
            # a pipe that stays open: a VMM that polls /dev/null would never sleep
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=descriptors,
            preexec_fn=child_setup(),  # noqa: PLW1509 (single-threaded here)
        )
    except OSError as error:
        raise ConfigError(f"{argv[0]}: {error.strerror}", "install it on the host") from error
