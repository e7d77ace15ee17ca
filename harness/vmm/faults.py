"""Fault injection: into a vCPU before its next instruction, or into a device's request."""

from __future__ import annotations

from collections.abc import Iterable
from fcntl import ioctl
from typing import Any, Callable

from harness.kvm import ioctls, structs
from harness.kvm.vcpu import Vcpu

from .devices.virtio.userspace import UserspaceDevice
from .int_range import check_int_range

_EXCEPTIONS = 32  # vectors below are exceptions
_INVALID_OPCODE = 6
_REQUESTS = ("disk-error", "lost-interrupt", "bad-used")


def vcpu_fault(kind: Any, vector: Any, error_code: Any) -> Callable[[Vcpu], None]:
    """A function that injects the fault into a vCPU that is not running. Raises ValueError."""
    check_int_range("vector", vector, _EXCEPTIONS)
    if error_code is not None:
        check_int_range("error code", error_code, 1 << 32)
    kinds: dict[Any, Callable[[Vcpu], None]] = {
        "exception": lambda vcpu: _exception(vcpu, vector, error_code),
        "nmi": lambda vcpu: _ioctl(vcpu, ioctls.NMI),
        "machine-check": lambda vcpu: _ioctl(vcpu, ioctls.X86_SET_MCE, structs.MCE_UNCORRECTED),
        "triple-fault": _triple_fault,
    }
    if kind not in kinds:
        raise ValueError(f"no fault {kind!r:.80}: choose from {', '.join((*kinds, *_REQUESTS))}")
    return kinds[kind]


def _ioctl(vcpu: Vcpu, request: int, argument: bytes = b"") -> None:
    ioctl(vcpu.fd, request, argument or 0)


def _exception(vcpu: Vcpu, vector: int, error_code: int | None) -> None:
    events = bytearray(structs.VCPU_EVENTS_SIZE)
    ioctl(vcpu.fd, ioctls.GET_VCPU_EVENTS, events)
    has_code = error_code is not None
    structs.EVENT_EXCEPTION.pack_into(events, 0, 1, vector, has_code, 0, error_code or 0)
    ioctl(vcpu.fd, ioctls.SET_VCPU_EVENTS, events)


def _triple_fault(vcpu: Vcpu) -> None:
    """Inject an exception while the IDT is empty, so that no handler can be called."""
    vcpu.set_special({"idt": (0, 0)})
    _exception(vcpu, _INVALID_OPCODE, None)


def fail_request(devices: Iterable[object], kind: Any, label: Any, nth: Any) -> None:
    """Let the nth request from now on fail, of the device with that label. kind: see
    UserspaceDevice. Raises ValueError."""
    if kind not in _REQUESTS:
        raise ValueError(f"no request fault {kind!r:.80}: choose from {', '.join(_REQUESTS)}")
    by_label = {device.label: device for device in devices if isinstance(device, UserspaceDevice)}
    if label not in by_label:
        labels = ", ".join(by_label) or "none"
        raise ValueError(f"no device {label!r:.80} in the VMM: choose from {labels}")
    device = by_label[label]
    device.faults[device.requests + check_int_range("nth", nth, 1 << 32, 1)] = kind
