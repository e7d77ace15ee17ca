"""Names of metrics of libvirt_exporter, its forks, and node_exporter, and what they hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

MIB = float(1 << 20)

Exporter = Literal["libvirt", "node"]
Labels = Mapping[str, str]


@dataclass(frozen=True)
class Metric:
    """What a metric holds.

    target: a column of the trace, or "vcpus", "memory_size", "memory_available", "state". counter:
    whether it grows, so that its rate counts. scale: into the unit of the target.
    """

    exporter: Exporter
    target: str
    counter: bool
    scale: float = 1.0


def _metrics(
    exporter: Exporter, target: str, counter: bool, scale: float, *names: str
) -> dict[str, Metric]:
    return dict.fromkeys(names, Metric(exporter, target, counter, scale))


_BLOCK, _INTERFACE = "libvirt_domain_block_stats", "libvirt_domain_interface_stats"
METRICS: dict[str, Metric] = {
    **_metrics(
        "libvirt",
        "cpu_cores",
        True,
        1.0,
        "libvirt_domain_info_cpu_time_seconds_total",
        "libvirt_domain_cpu_time_seconds_total",
        "libvirt_domain_vcpu_time_seconds_total",
    ),
    **_metrics(
        "libvirt",
        "vcpus",
        False,
        1.0,
        "libvirt_domain_info_virtual_cpus",
        "libvirt_domain_info_vcpus",
        "libvirt_domain_vcpu_current",
    ),
    **_metrics(
        "libvirt",
        "memory_size",
        False,
        1 / MIB,
        "libvirt_domain_info_maximum_memory_bytes",
        "libvirt_domain_info_max_memory_bytes",
    ),
    # What the guest may use now, as the balloon leaves it.
    **_metrics(
        "libvirt",
        "memory_mib",
        False,
        1 / MIB,
        "libvirt_domain_info_memory_usage_bytes",
        "libvirt_domain_info_memory_bytes",
        "libvirt_domain_memory_usage_bytes",
    ),
    # What the guest's process uses on the host: better, where it is there.
    **_metrics(
        "libvirt", "memory_resident", False, 1 / MIB, "libvirt_domain_memory_stats_rss_bytes"
    ),
    **_metrics(
        "libvirt",
        "read_iops",
        True,
        1.0,
        f"{_BLOCK}_read_requests_total",
        "libvirt_domain_block_read_requests_total",
    ),
    **_metrics(
        "libvirt",
        "write_iops",
        True,
        1.0,
        f"{_BLOCK}_write_requests_total",
        "libvirt_domain_block_write_requests_total",
    ),
    **_metrics(
        "libvirt",
        "net_mib_s",
        True,
        1 / MIB,
        f"{_INTERFACE}_receive_bytes_total",
        f"{_INTERFACE}_transmit_bytes_total",
        "libvirt_domain_net_receive_bytes_total",
        "libvirt_domain_net_transmit_bytes_total",
    ),
    **_metrics(
        "libvirt", "state", False, 1.0, "libvirt_domain_info_vstate", "libvirt_domain_info_state"
    ),
    **_metrics("node", "cpu_cores", True, 1.0, "node_cpu_seconds_total"),
    **_metrics("node", "memory_size", False, 1 / MIB, "node_memory_MemTotal_bytes"),
    **_metrics("node", "memory_available", False, 1 / MIB, "node_memory_MemAvailable_bytes"),
    **_metrics("node", "read_iops", True, 1.0, "node_disk_reads_completed_total"),
    **_metrics("node", "write_iops", True, 1.0, "node_disk_writes_completed_total"),
    **_metrics(
        "node",
        "net_mib_s",
        True,
        1 / MIB,
        "node_network_receive_bytes_total",
        "node_network_transmit_bytes_total",
    ),
}
# Where exporters put the name of a domain, the usual one first.
DOMAIN_LABELS = ("domain", "domain_name", "domainname", "vm", "name")
SHUT_OFF = 5  # virDomainState
# Modes of node_cpu_seconds_total: guest time is in user time already, and a wait uses no CPU.
BUSY_MODES = ("user", "system", "nice", "irq", "softirq")
# Devices that pass on what another device counts: partitions, layers, bridges, tunnels.
_VIRTUAL_DISK = re.compile(r"(ram|loop|fd|sr|dm-|md|zram)\d+|(h|s|v|xv)d[a-z]+\d+|nvme\d+n\d+p\d+")
_VIRTUAL_INTERFACE = re.compile(
    r"lo|(veth|docker|br-|br|virbr|tap|vnet|tun|cni|flannel|cali|bond|team|dummy)[\w.-]*|.*\.\d+"
)


def counts(metric: Metric, labels: Labels) -> bool:
    """Whether a series counts, or repeats what another series has."""
    device = labels.get("device", "")
    if metric.exporter != "node" or not device:
        return True
    if metric.target == "net_mib_s":
        return not _VIRTUAL_INTERFACE.fullmatch(device)
    return not _VIRTUAL_DISK.fullmatch(device)
