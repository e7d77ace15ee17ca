"""The public base class of hypervisors whose machines are one VMM process each.

docs/writing-a-hypervisor.md is its manual. QEMU's drivers in qemu.py are subclasses, too.
"""

from __future__ import annotations

import difflib
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

from harness.agent.placeholders import contains_placeholder, find_placeholders
from harness.errors import HostError, hide_frames
from harness.hosts.base import Host
from harness.hypervisors.base import ROOT_DISK, Disk, End, Events, GuestSpec, Machine
from harness.hypervisors.capabilities import SupportsVhostUserDisks
from harness.hypervisors.connectivity import Connectivity
from harness.hypervisors.supervised import SupervisedHypervisor
from harness.hypervisors.unsupported import refuse

__tracebackhide__ = hide_frames
_MEMORY_REASON = "guests of {} leave memory behind that slows the boots of later guests"


@dataclass(frozen=True)
class VmmCommand:
    """How to start the VMM process of one machine.

    argv: program and arguments. environment: variables in addition to the agent's. files: name to
    text of files in the machine's directory. All these texts may contain placeholders:

        {memory}     descriptor of an empty file for the guest's memory; the VMM sets its size and
                     maps it shared: /proc/self/fd/{memory} is its path
        {tap}        descriptor of the guest's tap on the session's bridge, with IFF_VNET_HDR
        {vhost}      descriptor of /dev/vhost-net
        {monitor}    descriptor of a connected socket, on which the VMM serves QMP
        {disk0}      descriptor of a connected socket to the vhost-user server of the first disk of
                     VmConfig.vhost_user_disks; {disk1} of the second, ...
        {directory}  path of a private, empty directory for sockets and the like; it is removed
                     when the process has ended

    exit_reasons: exit status (0 to 255) to End.reason, for each status that is an orderly end. For
    status 0, the kernel's last message distinguishes a reset from a power-off.
    """

    argv: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    exit_reasons: Mapping[int, str] = field(default_factory=lambda: {0: "power-off"})

    def contains(self, placeholder: str) -> bool:
        """Whether any text of the command has that placeholder."""
        return contains_placeholder(placeholder, self.argv, self.environment, self.files)

    def contains_number(self, number: int) -> bool:
        """Whether any text of the command has that decimal number, not only as a part of another
        number."""
        texts = (*self.argv, *self.environment.values(), *self.files.values())
        return any(re.search(rf"(?<!\d){number}(?!\d)", text) for text in texts)


@dataclass(frozen=True)
class VmConfig:
    """One machine, as ProcessHypervisor.command() needs it. All paths are on the host.

    Attributes:
        spec: what the test requested; the base class has refused what the VMM does not support.
        host: where the VMM runs; host.place(path) makes a further local file readable there.
        boot: how the kernel is entered: one of ProcessHypervisor.boots.
        command_line: complete; pass it on as it is.
        disks: the root disk first, read-only. The guest must find them in this order.
        cid: the guest's vsock address; 0 without a vsock device.
        mac: the address of its network device; "" without one.
    """

    spec: GuestSpec
    host: Host
    boot: str
    command_line: str
    disks: Sequence[Disk]
    cid: int
    mac: str

    @property
    def vcpus(self) -> int:
        return self.spec.vcpus

    @property
    def memory(self) -> int:
        """MiB."""
        return self.spec.memory

    @property
    def vmlinux(self) -> str:
        """The kernel as an ELF file with a PVH entry."""
        return self.host.place(self.spec.image.kernel, regular=True)

    @property
    def bzimage(self) -> str:
        """The kernel as a bzImage: for boot="linux16", "linux64" and firmware."""
        return self.host.place(self.spec.image.bzimage, regular=True)

    @property
    def initramfs(self) -> str:
        return self.host.place(self.spec.image.initramfs, regular=True)

    @property
    def vhost_user_disks(self) -> list[Disk]:
        """Those that qemu-storage-daemon serves."""
        return [disk for disk in self.disks if disk.backend == "vhost-user"]


class ProcessHypervisor(SupervisedHypervisor, SupportsVhostUserDisks):
    """A hypervisor whose machines are one process each. Subclasses set the attributes and write
    command().

    The agent on the host starts the process in a cgroup with the guest's limits, stamps the console
    (the standard output), counts what the process costs, and ends it. This class places the files,
    makes the network, and explains how a machine ended.

    Attributes:
        name: for --hypervisor.
        program: the VMM, in the host's PATH. package: the Debian package that has it.
        boots: the words of GuestSpec.boot that the VMM supports; the first one is "auto".
        has_network, has_vsock: whether the VMM can have such a device.
        features: which of FEATURES it supports. A class with another word raises TypeError.
    """

    FEATURES = frozenset({"hugepages", "mergeable", "pmem", "overlay", "qcow2"})

    program: ClassVar[str] = ""
    package: ClassVar[str] = ""
    boots: ClassVar[Sequence[str]] = ("pvh",)
    has_network: ClassVar[bool] = True
    has_vsock: ClassVar[bool] = True
    features: ClassVar[frozenset[str]] = frozenset()
    vhost_user_disks = False

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if unknown := set(cls.features) - cls.FEATURES:
            raise TypeError(
                f"{cls.__name__}.features has unknown words: {', '.join(sorted(unknown))}. "
                f"hint: use words of {', '.join(sorted(cls.FEATURES))}"
            )

    def __init__(self, host: Host, progress: Callable[[str], None]) -> None:
        """Raises HostError where the program is missing or no agent starts."""
        self.program_path = self.find_program(host)
        super().__init__(host, progress)

    def find_program(self, host: Host) -> str:
        """The program's path on the host. Raises HostError. A subclass that brings its program
        returns host.place(path, executable=True)."""
        found = host.run(["sh", "-c", 'command -v "$1"', "sh", self.program], check=False)
        if found.status:
            raise HostError(
                f"there is no {self.program} on {host.name}",
                hint=f"install {self.package or self.program} there",
                stage="host",
            )
        return found.stdout.strip()

    def command(self, config: VmConfig) -> VmmCommand:
        """How to start the VMM of this machine. Raises ProvisionError (stage "create")."""
        raise NotImplementedError

    def create(self, spec: GuestSpec, events: Events) -> Machine:
        """See Hypervisor."""
        refuse(spec.name, self._unsupported(spec))
        spec = self._with_devices(spec)
        connectivity = self.connectivity(spec)
        config = self._config(spec, connectivity)
        command = self.command(config)
        _check_types(type(self).__name__, command, spec.name)
        _check(command, config, connectivity)
        arguments: dict[str, Any] = {
            "argv": list(command.argv),
            "environment": dict(command.environment),
            "files": dict(command.files),
            "exit_reasons": {str(status): why for status, why in command.exit_reasons.items()},
            "disks": [self.disk(disk) for disk in config.vhost_user_disks],
            "bridge": connectivity.bridge,
        }
        if self.host.emulated and not command.contains("{memory}"):
            request = partial(self.host.request_replacement, _MEMORY_REASON.format(self.name))
            events = _replacing_events(events, request)
        machine = self.start("exec", spec, arguments, connectivity, events)
        # the agent knows only the file, which find_program() may have placed under another name
        vmm = self.program or self.name
        machine.facts = {**machine.facts, "vmm": vmm, "cid": config.cid, "boot": config.boot}
        return machine

    def _config(self, spec: GuestSpec, connectivity: Connectivity) -> VmConfig:
        root = [Disk(self.host.place(spec.image.disk), ROOT_DISK)] if spec.root == "disk" else []
        return VmConfig(
            spec=spec,
            host=self.host,
            boot=self.boots[0] if spec.boot == "auto" else spec.boot,
            command_line=self.command_line(spec, connectivity),
            disks=(*root, *spec.disks),
            cid=random.SystemRandom().randint(3, 0xFFFF_FFFE) if connectivity.vsock else 0,
            mac=connectivity.mac,
        )

    def _with_devices(self, spec: GuestSpec) -> GuestSpec:
        """The specification with "auto" only where the VMM has the device."""
        if not self.has_network and spec.network == "auto":
            spec = replace(spec, network="none")
        if not self.has_vsock and spec.ssh == "auto":
            spec = replace(spec, ssh="network")
        return spec

    def _unsupported(self, spec: GuestSpec) -> list[tuple[object, str, str]]:
        """Condition, cause and hint of all that can be unsupported."""
        name, other = self.name, "or use --hypervisor=kvm"
        boots, features = ", ".join(self.boots), self.features
        formats = {"raw", "qcow2"} if "qcow2" in features else {"raw"}
        vhost_user = any(disk.backend == "vhost-user" for disk in spec.disks)
        rows: list[tuple[object, str, str]] = [
            (spec.vmm, f"vmm={dict(spec.vmm)} is for the built-in VMM", f"leave it out, {other}"),
            (
                spec.boot not in ("auto", *self.boots),
                f"{name} does not enter a kernel by boot={spec.boot}; it supports {boots}",
                f"leave --guest-boot out, {other}",
            ),
            (spec.exit_limit, f"{name} has no exit_limit", f"leave it out, {other}"),
            (spec.devices, f"{name} has no devices of a test", f"leave devices out, {other}"),
            (spec.pin, f"{name} does not pin single vCPUs", "give cpus= for all of its threads"),
            (spec.network == "passt", f"{name} has no passt network", "use network=bridge"),
            (
                spec.network == "bridge" and not self.has_network,
                f"{name} has no network device",
                f"use network=none, {other}",
            ),
            (
                spec.ssh == "vsock" and not self.has_vsock,
                f"{name} has no vsock device",
                f"use ssh=network, {other}",
            ),
            (
                vhost_user and not self.vhost_user_disks,
                f"{name} has no vhost-user disks",
                f'leave backend="vhost-user" out, {other}',
            ),
            (
                any(disk.format not in formats for disk in spec.disks),
                f"{name} has no qcow2 disks",
                f"give raw ones, {other}",
            ),
        ]
        for feature, requested in (
            ("hugepages", spec.hugepages),
            ("mergeable", spec.mergeable),
            ("pmem", spec.root == "pmem"),
            ("overlay", any(disk.overlay for disk in spec.disks)),
        ):
            missing = requested and feature not in features
            rows.append((missing, f"{name} does not support {feature}", f"leave it out, {other}"))
        return rows


def _replacing_events(events: Events, request: Callable[[], None]) -> Events:
    """The events, which also request the host's replacement when the guest has used memory.

    A VMM that fails without a console line has started no kernel.
    """
    requested = False

    def use() -> None:
        nonlocal requested
        if not requested:
            requested = True
            request()

    def on_console(time_ns: int, text: str) -> None:
        use()
        events.on_console(time_ns, text)

    def on_end(end: End) -> None:
        if end.reason not in ("vmm-error", "refused"):
            use()
        events.on_end(end)

    return replace(events, on_console=on_console, on_end=on_end)


def _check_types(driver: str, command: object, guest: str) -> None:
    """Raises ProvisionError for a result of command() that is no command.

    driver: the class. guest: its name.
    """
    if not isinstance(command, VmmCommand):
        cause = f"returns {type(command).__name__}, not VmmCommand"
        hint = "return VmmCommand(argv)"
    elif isinstance(command.argv, str) or not command.argv:
        cause = f"has the argv {command.argv!r:.80}, which is no list of a program and arguments"
        hint = "pass a list of strings, the program first"
    elif odd := [word for word in command.argv if not isinstance(word, str)]:
        cause = f"has {odd[0]!r:.80} in argv, which is no string"
        hint = "pass str(...) of each argument"
    else:
        return
    refuse(guest, ((True, f"{driver}.command() {cause}", hint),))


def _unknown_placeholder(
    command: VmmCommand, config: VmConfig, connectivity: Connectivity
) -> tuple[str, str]:
    """The first placeholder of argv that this machine does not have, and the hint; "" for none.

    Words of the kernel's command line and of paths are not the driver's.
    """
    known = ["{memory}", "{vhost}", "{monitor}", "{directory}"]
    known += ["{tap}"] if connectivity.network == "bridge" else []
    known += [f"{{disk{number}}}" for number in range(len(config.vhost_user_disks))]
    foreign = (config.command_line, *(disk.path for disk in config.disks))
    for word in command.argv:
        for placeholder in find_placeholders(word):
            if placeholder in known or any(placeholder in text for text in foreign):
                continue
            close = difflib.get_close_matches(placeholder, known, n=1)
            return placeholder, f"use {close[0] if close else ' or '.join(known)}"
    return "", ""


def _check(command: VmmCommand, config: VmConfig, connectivity: Connectivity) -> None:
    """Raises ProvisionError for a command without the device by which the harness reaches the
    guest, or with an unknown placeholder."""
    unknown, hint = _unknown_placeholder(command, config, connectivity)
    refuse(
        config.spec.name,
        (
            (unknown, f"the VMM's command line has {unknown}, but the machine has none", hint),
            (
                connectivity.network == "bridge" and not command.contains("{tap}"),
                "the VMM's command line has no {tap}, but the guest has a network",
                "pass {tap} where VmConfig.mac is set, or set has_network = False",
            ),
            (
                config.cid and not command.contains_number(config.cid),
                "the VMM's command line has no vsock device, but the guest has a vsock address",
                "pass VmConfig.cid where it is not 0, or set has_vsock = False",
            ),
        ),
    )
