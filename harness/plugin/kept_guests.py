"""Kept guests: the session waits at the terminal while the user inspects them by ordinary ssh.

A guest never outlives its session, so the session waits to keep it. The guest's SSH server listens
on vsock, perhaps on another machine. A forwarder on an ephemeral loopback port lets the stock `ssh`
reach it; the client key is still required.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness import scratch
from harness.errors import HarnessError
from harness.guest.guest import Guest
from harness.plugin.progress import Progress
from harness.ssh.process import Stream

CHUNK = 1 << 16


def offer(guests: Sequence[Guest], progress: Progress) -> None:
    """Print an ssh line for every running guest, then wait for Enter or the terminal's end."""
    running = [guest for guest in guests if not guest.ended.is_set()]
    if not running:
        return
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(reachable(guest)) for guest in running]
        for guest, line in zip(running, lines, strict=True):
            progress(f"kept {guest.name}: {line}")
        progress("these guests run until you press Enter here")
        with progress.uncaptured():
            wait_for_enter(lines)


def has_terminal() -> bool:
    """Whether a user sits at a terminal, so that the session can wait."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return not os.environ.get("CI")


def wait_for_enter(lines: Sequence[str]) -> None:
    """Wait at the terminal itself: pytest captures standard input."""
    with contextlib.suppress(OSError), Path("/dev/tty").open() as terminal:
        terminal.readline()


@contextlib.contextmanager
def reachable(guest: Guest) -> Iterator[str]:
    """Forward a loopback port to the guest's SSH server. Yields the ssh command line for it."""
    with scratch.directory() as folder, _listener() as listener:
        known = folder / "known_hosts"
        known.write_text(f"{guest.name} {guest.spec.image.host_key}\n", encoding="utf-8")
        threading.Thread(target=_accept, args=(listener, guest), daemon=True).start()
        yield shlex.join(
            [
                "ssh",
                "-i",
                str(guest.spec.image.client_key),
                "-p",
                str(listener.getsockname()[1]),
                "-o",
                f"UserKnownHostsFile={known}",
                "-o",
                f"HostKeyAlias={guest.name}",
                "-o",
                "IdentitiesOnly=yes",
                "root@127.0.0.1",
            ]
        )


@contextlib.contextmanager
def _listener() -> Iterator[socket.socket]:
    """A loopback port that the kernel chooses."""
    listener = socket.create_server(("127.0.0.1", 0))
    try:
        yield listener
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes accept(); close() alone does not
        listener.close()


def _accept(listener: socket.socket, guest: Guest) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        try:
            stream = guest.machine.connect(22, 10.0)
        except (OSError, HarnessError):
            client.close()
            continue
        for source, sink in ((client, stream), (stream, client)):
            threading.Thread(target=_pump, args=(source, sink), daemon=True).start()


def _pump(source: Stream, sink: Stream) -> None:
    """Copy until either side ends, then close both: SSH cannot use half a connection."""
    with contextlib.suppress(OSError, EOFError):
        source.settimeout(None)
        while data := source.recv(CHUNK):
            view = memoryview(data)
            while view:
                view = view[sink.send(bytes(view)) :]
    for side in (source, sink):
        with contextlib.suppress(OSError, EOFError):
            if isinstance(side, socket.socket):
                side.shutdown(socket.SHUT_RDWR)
            side.close()
