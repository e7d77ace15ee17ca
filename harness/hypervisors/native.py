"""The baseline: the guest image as a container on the host's kernel, without a machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from harness.errors import HostError, hide_frames
from harness.hosts.base import Host
from harness.hypervisors.base import Events, GuestSpec, Machine
from harness.hypervisors.capabilities import DeclaresKvmUse
from harness.hypervisors.machines import SupervisedMachine
from harness.hypervisors.supervised import SupervisedHypervisor
from harness.hypervisors.unsupported import refuse

__tracebackhide__ = hide_frames
_CONTROLLERS = "/sys/fs/cgroup/cgroup.controllers"
_TRIAL = "unshare --mount --uts --net --pid --fork ip link add type veth"


class NativeHypervisor(SupervisedHypervisor, DeclaresKvmUse):
    """See Hypervisor.

    A guest has the same programs as any other, a network device on the same bridge, SSH by the
    network, and as many of the host's CPUs as another has vCPUs. It has all of the host's memory
    without a memory_limit. Its kernel is the host's.
    """

    name = "native"
    needs_kvm = False
    taps = False

    def __init__(
        self,
        host: Host,
        progress: Callable[[str], None],
        *,
        shares: SupervisedHypervisor | None = None,
    ) -> None:
        """Raises HostError where the user cannot create such a container."""
        done = host.run([*_TRIAL.split()], check=False)
        if done.status:
            message = (done.stderr.strip() or f"status {done.status}").splitlines()[-1]
            raise HostError(
                f"a container cannot be created on {host.name}: {message}",
                hint="run as root, with the programs unshare and ip and the module veth; or use "
                "--virt-host=emulated",
                stage="host",
            )
        if host.run(["grep", "-qw", "cpuset", _CONTROLLERS], check=False).status:
            raise HostError(
                f"{host.name} has no controller cpuset in cgroup v2, which gives a container its "
                "CPUs",
                hint="boot it with cgroup v2 only, or use --virt-host=emulated",
                stage="host",
            )
        super().__init__(host, progress, shares=shares)
        self._containers: list[tuple[SupervisedMachine, Sequence[int]]] = []

    def create(self, spec: GuestSpec, events: Events) -> Machine:
        """See Hypervisor."""
        refuse(spec.name, _unsupported(spec))
        spec = replace(spec, ssh="network", cpus=spec.cpus or self._cpus(spec.vcpus))
        connectivity = self.connectivity(spec)
        arguments: dict[str, Any] = {
            "initramfs": self.host.place(spec.image.initramfs),
            "root": self.host.place(spec.image.disk),
            "cmdline": " ".join(filter(None, (spec.cmdline, connectivity.cmdline))),
            "bridge": connectivity.bridge,
            "mac": connectivity.mac,
            "disks": [self.disk(disk) for disk in spec.disks],
        }
        machine = self.start("create_container", spec, arguments, connectivity, events)
        machine.facts = {**machine.facts, "cid": 0}
        self._containers.append((machine, spec.cpus))
        return machine

    def _cpus(self, count: int) -> Sequence[int]:
        """The host's last CPUs that no other container has. Interrupts and the harness are mostly
        on the first ones."""
        host_cpus = self.host.facts.cpu_numbers
        if count >= len(host_cpus):
            return ()
        self._containers = [(one, cpus) for one, cpus in self._containers if not one.ended]
        slots = [host_cpus[end - count : end] for end in range(len(host_cpus), count - 1, -count)]
        used = {cpu for _, cpus in self._containers for cpu in cpus}
        return next((slot for slot in slots if not used & set(slot)), slots[0])


def _unsupported(spec: GuestSpec) -> Iterator[tuple[object, str, str]]:
    """Condition, cause and hint of what only a machine has."""
    complex_disks = any(disk.overlay or disk.format != "raw" for disk in spec.disks)
    for condition, cause, hint in (
        (spec.vmm, f"vmm={dict(spec.vmm)} is for the built-in VMM", "leave it out"),
        (spec.exit_limit, "it causes no exits", "leave exit_limit out"),
        (spec.devices, "it has no devices of a test", "leave devices out"),
        (spec.pin, "it has no vCPUs to pin", "give cpus= instead"),
        (spec.hugepages or spec.mergeable, "its memory is the host's own", "leave these out"),
        (spec.network in ("passt", "none"), "it has the guests' bridge", "use network=bridge"),
        (spec.ssh == "vsock", "it has no vsock", "leave --guest-ssh out"),
        (
            complex_disks,
            "its disks are the host's files: raw, without an overlay",
            "give raw ones, writable or readonly",
        ),
    ):
        yield (
            condition,
            f"a native guest is a container: {cause}",
            f"{hint}, or use another hypervisor",
        )
