"""The servers that the workload image has: what hv-serve starts, how requests reach it, and how
many of them it has answered by its own counter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.errors import WorkloadError
from harness.guest.guest import Guest
from suites.consolidation import pgbench

START_TIMEOUT = 90.0  # seconds


@dataclass(frozen=True)
class Counter:
    """A server's own count of its requests.

    command: prints it, in the guest. pattern: of lines of that; the numbers in it are added. own:
    requests that each command adds to the count.
    """

    command: str
    pattern: str
    own: int = 0


@dataclass(frozen=True)
class Server:
    """A server of the workload image.

    protocol: of hv-load, or "pgbench". port: TCP. counter: of its requests.
    """

    protocol: str
    port: int
    counter: Counter


# ngx_http_stub_status_module: accepted connections, handled connections, requests
_STATUS = Counter(
    "exec 3<>/dev/tcp/127.0.0.1/80; printf 'GET /status HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3",
    r"^ \d+ \d+ (\d{1,18}) $",
    own=1,
)
# without a line for a command that it never had
_COMMANDS = Counter(
    "redis-cli info commandstats", r"^(?:# Commandstats|cmdstat_(?:get|set):calls=(\d{1,18}),)"
)
# Each transaction adds a row; pg_stat_database also counts pgbench's other statements. There is no
# psql in the image.
_COUNT_ROWS = r"""SELECT count(*) AS n FROM pgbench_history \gset
\shell echo rows :n
"""
_ROWS = Counter(
    f"{pgbench.PROGRAM} -n -t 1 -f - -h /tmp -U postgres postgres <<<'{_COUNT_ROWS}'",
    r"^rows (\d{1,18})$",
)


def _own_count(name: str) -> Counter:
    """The file that hv-job has for this server."""
    return Counter(f"od -An -t u8 /run/{name}.count", r"^ *(\d{1,18})$")


SERVERS = {
    "web": Server("http", 80, _STATUS),
    "cache": Server("resp", 6379, _COMMANDS),
    "oltp": Server("pgbench", 5432, _ROWS),
    "batch": Server("job", 7001, _own_count("batch")),
    "idle": Server("echo", 7000, _own_count("idle")),
}


def start_server(guest: Guest, name: str, work: int = 0) -> None:
    """Start a server in a guest, and wait until it accepts connections.

    work: stress-ng's operations in a job of "batch". Raises CommandError with the server's log.
    """
    guest.ssh.run(["hv-serve", name, *([str(work)] if work else [])], timeout=START_TIMEOUT)


def count_answers(guest: Guest, name: str) -> int:
    """How many requests a server in a guest has answered since its start, by its own counter.

    Raises WorkloadError if it does not say, CommandError if its command fails.
    """
    counter = SERVERS[name].counter
    output = guest.ssh.run(["bash", "-c", counter.command]).stdout
    numbers = re.findall(counter.pattern, output, re.MULTILINE)
    if not numbers:
        raise WorkloadError(
            f"the server {name!r} does not say how many requests it has answered: "
            f"{output[-200:]!r}",
            hint="check the version of the server in the workload image",
            stage="run",
            guest=guest.name,
        )
    return sum(int(number or 0) for number in numbers)
