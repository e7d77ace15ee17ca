"""A supervisor's process, driven by its protocol."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.hypervisors.archive import archive
from tests.waiting import TIMEOUT, wait_until

Message = dict[str, Any]
SLEEP = {"argv": ["sleep", "100"]}


class AgentProcess:
    """A supervisor's process with three pipes."""

    def __init__(self, folder: Path) -> None:
        path = folder / "vmm.pyz"
        path.write_bytes(archive())
        self.errors = folder / "stderr"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        self.messages: list[Message] = []
        self.ids = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.wait(lambda message: message.get("event") == "hello")

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.messages.append(json.loads(line))

    def wait(self, matches: Callable[[Message], Any], start: int = 0) -> Message:
        """The first matching message from index `start` on."""
        matching: list[Message] = []

        def has_match() -> bool:
            matching[:] = [message for message in self.messages[start:] if matches(message)][:1]
            return bool(matching)

        assert wait_until(has_match), (self.messages[-5:], self.errors.read_text())
        return matching[0]

    def send(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def ask(self, op: Any, guest: Any = "", **more: Any) -> Message:
        """Send a request and return its answer."""
        self.ids += 1
        number, start = self.ids, len(self.messages)
        request = {"id": number, "op": op, "guest": guest, **more}
        self.send(json.dumps(request).encode() + b"\n")
        return self.wait(lambda message: message.get("id") == number, start)

    def event(self, name: str, guest: str) -> Message:
        return self.wait(
            lambda message: (message.get("event"), message.get("guest")) == (name, guest)
        )

    def alive(self) -> bool:
        return "result" in self.ask("capabilities") or "error" in self.ask("capabilities")

    def close(self) -> int:
        """Close its input; returns its exit status."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            return self.process.wait(TIMEOUT)
        finally:
            self.process.kill()
            self._reader.join(TIMEOUT)
            assert self.process.stdout is not None
            self.process.stdout.close()
