"""A complete hypervisor of a third party, whose machines are shell scripts with an SSH server.

It implements the protocol of harness/hypervisors/base.py directly. The plugin's own tests use it.
docs/writing-a-hypervisor.md describes the protocol, and a shorter way for a VMM that is a program.
Its distribution names the class in an entry point:

    [project.entry-points."harness.hypervisors"]
    processes = "processes:ShellHypervisor"

A machine is a shell that prints what a guest's console would. Words of GuestSpec.cmdline choose how
it boots:

    hang=init       does not reach that stage        panic=boot     panics while it boots
    failed=WHAT     its init reports that WHAT failed  refuse       boots, but refuses SSH
    stubborn        does not stop                    poweroff=boot  powers off while it boots
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import paramiko
from paramiko.common import (
    AUTH_FAILED,
    AUTH_SUCCESSFUL,
    OPEN_SUCCEEDED,
)

from harness.errors import HarnessError, HostError, ImageError, ProvisionError
from harness.hosts.base import Host
from harness.hypervisors.base import End, Events, GuestSpec, OnUtilization
from harness.hypervisors.capabilities import DeclaresKvmUse, SupportsOwnImage
from harness.ssh.process import Stream
from images.image import GuestImage
from images.keys import Keys, ensure_keys

# What a guest's kernel and init would print. It ends when its standard input closes.
BOOT = """
echo "booting $NAME"
for word in $CMDLINE; do case $word in
    panic=boot) echo "Kernel panic - not syncing: panic=boot"; exit 3;;
    poweroff=boot) exit 0;;
    hang=init) cat; exit 4;;
esac; done
echo "harness: init 1000000"
for word in $CMDLINE; do case $word in
    failed=*) echo "harness: failed: ${word#failed=}: No such device"; exit 0;;
    hang=sshd) cat; exit 4;;
esac; done
echo "harness: sshd 2000000"
while read line; do
    case $line in
        panic) echo "Kernel panic - not syncing: sysrq triggered crash"; exit 3;;
        off) exit 0;;
        *) echo "$line";;
    esac
done
"""
ENDS = {0: "power-off", 3: "reset", 4: "stopped", -signal.SIGKILL: "killed"}


class ShellHypervisor(DeclaresKvmUse, SupportsOwnImage):
    """See Hypervisor. It declares two optional capabilities."""

    name = "processes"
    needs_kvm = False

    def __init__(self, host: Host, progress: Callable[[str], None]) -> None:
        if os.environ.get("PROCESSES_REFUSE"):
            raise HostError("processes are not wanted here", hint="unset PROCESSES_REFUSE")
        self.host = host
        self._machines: list[ShellMachine] = []
        self._folder = tempfile.TemporaryDirectory(prefix="processes-")
        self.keys: Keys = ensure_keys(Path(self._folder.name) / "keys")

    def guest_image(self, progress: Callable[[str], None]) -> GuestImage:
        """See SupportsOwnImage. Nothing boots this image; only the keys are real."""
        if os.environ.get("PROCESSES_NO_IMAGE"):
            raise ImageError("the disk is truncated", hint="build it again", stage="image")
        folder = Path(self._folder.name)
        return GuestImage(
            kernel=folder / "vmlinux",
            bzimage=folder / "bzimage",
            initramfs=folder / "initramfs",
            disk=folder / "disk",
            digest="0123456789abcdef",
            release="none",
            client_key=self.keys.client,
            host_key=self.keys.host_public,
            packages={},
            folder=folder,
        )

    def create(self, spec: GuestSpec, events: Events) -> ShellMachine:
        """See Hypervisor."""
        if spec.memory < 16:
            raise ProvisionError(
                f"{spec.memory} MiB of memory is too little", hint="give 16", stage="create"
            )
        machine = ShellMachine(self, spec, events)
        self._machines.append(machine)
        return machine

    def capabilities(self) -> Mapping[str, int]:
        """See Hypervisor."""
        return {"KVM_CAP_IRQCHIP": 1, "KVM_CAP_PIT2": 0}

    def watch(self, callback: OnUtilization) -> None:
        """See Hypervisor. One report is enough here; a test makes more by `tick`."""
        self.tick = callback
        callback(time.monotonic_ns(), {"cpu.user": 12.5, "memory.used": 512.0})

    def close(self) -> None:
        """See Hypervisor."""
        for machine in self._machines:
            machine.kill()
        left = os.environ.get("PROCESSES_LEAVE")
        self._folder.cleanup()
        if left:
            raise HarnessError(f"cgroup {left} is still there", hint="rmdir", stage="teardown")


class ShellMachine:
    """See Machine."""

    def __init__(self, maker: ShellHypervisor, spec: GuestSpec, events: Events) -> None:
        self._maker, self._spec, self._events = maker, spec, events
        self._servers: list[paramiko.Transport] = []
        self._stopped = False
        events.on_mark("create", time.monotonic_ns())
        self.process = subprocess.Popen(
            ["sh", "-c", BOOT],
            env={**os.environ, "NAME": spec.name, "CMDLINE": spec.cmdline},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        events.on_mark("kernel", time.monotonic_ns())
        self.facts: Mapping[str, Any] = {"vmm": "sh", "pid": self.process.pid, "cid": 0}
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        panic = ""
        with self.process.stdout as console:
            for line in console:
                self._events.on_console(time.monotonic_ns(), line.rstrip("\n"))
                panic = panic or (line.strip() if line.startswith("Kernel panic") else "")
        status = self.process.wait()
        for server in self._servers:
            server.close()
        reason = "stopped" if self._stopped else ENDS.get(status, "vmm-error")
        detail = f"status {status}"
        if reason == "reset" and panic:
            reason, detail = "panic", panic
        self._events.on_end(End(reason, detail, time.monotonic_ns()))

    def connect(self, port: int, timeout: float) -> Stream:
        """See Machine. Each connection has its own SSH server, by a socket pair."""
        if "refuse" in self._spec.cmdline.split() or self.process.poll() is not None:
            raise ConnectionRefusedError(f"no server listens on port {port}")
        near, far = socket.socketpair()
        server = paramiko.Transport(far)
        server.add_server_key(paramiko.Ed25519Key.from_private_key_file(_host_key(self._maker)))
        server.set_log_channel("harness.ssh")
        # With an event it does not wait for its client, which connects after this returns.
        login = _Login(self, self._maker.keys.client_public)
        server.start_server(event=threading.Event(), server=login)
        self._servers.append(server)
        return near

    def tell(self, line: str) -> None:
        """Type a line at its console."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()

    def drop_connections(self) -> None:
        """What a restarted SSH server does to its clients."""
        for server in self._servers:
            server.close()

    def statistics(self) -> dict[str, int]:
        """See Machine. This hypervisor knows no counter: each one is absent."""
        return {}

    def stop(self, timeout: float = 5.0) -> None:
        """See Machine."""
        if "stubborn" not in self._spec.cmdline.split():
            self._stopped = self.process.poll() is None
            self.kill()

    def kill(self) -> None:
        """SIGKILL to all of it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


def _host_key(maker: ShellHypervisor) -> str:
    return str(maker.keys.folder / "host")


class _Login(paramiko.ServerInterface):
    """Accepts root with the store's client key, and runs commands as child processes."""

    def __init__(self, machine: ShellMachine, client_public: str) -> None:
        self._machine = machine
        self._client = client_public.split()[1]

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        known = username == "root" and key.get_base64() == self._client
        return AUTH_SUCCESSFUL if known else AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        # Later: paramiko answers the request only after this returns.
        threading.Timer(0.02, self._execute, (channel, command)).start()
        return True

    def _execute(self, channel: paramiko.Channel, command: bytes) -> None:
        process = subprocess.Popen(
            ["sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=self._machine.process.pid,  # it dies with its machine
        )
        out, err = process.communicate()
        with contextlib.suppress(OSError, EOFError):
            channel.sendall(out)
            channel.sendall_stderr(err)
            channel.send_exit_status(process.returncode)
            channel.close()
