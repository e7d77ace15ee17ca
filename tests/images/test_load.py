"""hv-load against servers on this machine: schedule, protocols, hostile answers."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from suites.consolidation.requests import latency_at
from tests.images.loopback import HTTP_OK, Handler, answer, load, serving


def http_in_pieces(connection: socket.socket) -> None:
    while connection.recv(4096):
        for at in range(len(HTTP_OK)):
            connection.sendall(HTTP_OK[at : at + 1])


def redis(connection: socket.socket) -> None:
    while data := connection.recv(4096):
        assert data.endswith(b"\r\n")
        if data.startswith(b"SET key:"):
            assert len(data.split()[2]) == 512
            connection.sendall(b"+OK\r\n")
        else:
            assert data.startswith(b"GET key:")
            connection.sendall(b"$512\r\n" + b"v" * 512 + b"\r\n")


@pytest.mark.parametrize(
    ("protocol", "handler"),
    [
        ("http", answer(HTTP_OK)),
        ("http", http_in_pieces),
        ("resp", redis),
        ("echo", answer(b"e")),
        ("job", answer(b"0\n")),
    ],
)
def test_right_answers_are_good(tools: Path, protocol: str, handler: Handler) -> None:
    with serving(handler) as port:
        log = load(tools, f"{protocol} 127.0.0.1 {port} 50 periodic\n")
    assert len(log) == 50
    assert log["good"].all()
    assert (log["latency"] > 0).all()
    assert (log["delay"] <= log["sent"]).all()
    assert (log["sent"] <= log["latency"]).all()


@pytest.mark.parametrize(
    ("protocol", "reply"),
    [
        ("http", b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"),
        ("http", b"HTTP/1.1 200 OK\r\n\r\n"),
        ("http", b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"),
        ("http", b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n"),
        ("http", b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n"),
        ("http", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello, world"),
        ("http", b"\r\n\r\n"),
        ("http", b"x" * 20000),
        ("resp", b"-ERR unknown\r\n"),
        ("resp", b"$-1\r\n"),
        ("resp", b"$99999999999999\r\n"),
        ("resp", b"\r\n"),
        ("echo", b"x"),
        ("echo", b"ee"),
        ("job", b"1\n"),
        ("job", b"0\n0\n"),
    ],
)
def test_wrong_answers_are_not_good_and_end_nothing(
    tools: Path, protocol: str, reply: bytes
) -> None:
    with serving(answer(reply)) as port, serving(answer(b"e")) as other:
        targets = f"{protocol} 127.0.0.1 {port} 20 periodic\necho 127.0.0.1 {other} 20 periodic\n"
        log = load(tools, targets)
    assert not log[log["target"] == 0]["good"].any()
    assert log[log["target"] == 1]["good"].all()


def test_closed_port_and_closed_connection_are_errors(tools: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        closed = unused.getsockname()[1]
    with serving(lambda connection: connection.close()) as port:
        targets = f"echo 127.0.0.1 {closed} 20 periodic\necho 127.0.0.1 {port} 20 periodic\n"
        log = load(tools, targets)
    assert log.groupby("target").size().tolist() == [20, 20]
    assert not log["good"].any()
    assert log.loc[log["target"] == 0, "sent"].isna().all()


def test_load_that_is_too_much_for_hv_load_loses_no_arrival(tools: Path) -> None:
    """It tries so many connections for longer than the load has, and then notices the last ones."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        closed = unused.getsockname()[1]
    log = load(tools, f"echo 127.0.0.1 {closed} 1000000 periodic\n", seconds=0.2, drain=0)
    assert len(log) == pytest.approx(200_000, abs=1)
    assert not log["good"].any()


def test_requests_of_a_slow_server_wait_for_a_connection(tools: Path) -> None:
    """64 connections at 1 s each carry 64 requests a second; the clock of the others runs."""

    def slow(connection: socket.socket) -> None:
        while connection.recv(64):
            time.sleep(1)
            connection.sendall(b"e")

    with serving(slow) as port:
        log = load(tools, f"echo 127.0.0.1 {port} 128 periodic\n", drain=3)
    assert log["good"].all()
    served = log["latency"] - log["sent"]
    assert served.between(0.99, 1.5).all()
    waiting = log["sent"] > 0.4
    assert waiting.sum() == 64
    assert (log.loc[~waiting, "sent"] < 0.1).all()


def test_silent_server_leaves_every_request_unanswered(tools: Path) -> None:
    with serving(lambda connection: time.sleep(5)) as port:
        start = time.monotonic()
        log = load(tools, f"echo 127.0.0.1 {port} 300 periodic\n", drain=0.5)
    assert time.monotonic() - start < 4
    assert len(log) == 300
    assert log["sent"].notna().sum() == 64  # as many as it opens connections
    assert np.isinf(log["latency"]).all()


def test_latency_starts_at_the_schedule_when_the_server_pauses(tools: Path) -> None:
    """A pause of 1 s in 10 s at 100/s: a tenth of the arrivals wait from 0 to 1 s for its end."""
    pauses: list[float] = []
    pause = threading.Event()
    running = threading.Event()
    running.set()

    def handler(connection: socket.socket) -> None:
        while data := connection.recv(64):
            running.wait()
            connection.sendall(data)

    def controller() -> None:
        pause.wait()
        time.sleep(4)
        start = time.monotonic()
        running.clear()
        time.sleep(1)
        running.set()
        pauses.append(time.monotonic() - start)

    thread = threading.Thread(target=controller)
    thread.start()
    with serving(handler) as port:
        pause.set()
        log = load(tools, f"echo 127.0.0.1 {port} 100 periodic\n", seconds=10, drain=3)
    thread.join()
    assert log["good"].all()
    assert latency_at(log["latency"], 50) < 0.1
    seconds = pauses[0]
    assert seconds - 0.7 < latency_at(log["latency"], 95) < seconds - 0.3
    assert seconds - 0.3 < latency_at(log["latency"], 99) < seconds + 0.1


def schedule(tools: Path, port: int, arrivals: str = "poisson", **options: float) -> np.ndarray:
    """Scheduled arrivals in seconds since the start."""
    log = load(tools, f"echo 127.0.0.1 {port} 200 {arrivals}\n", **options)  # type: ignore[arg-type]
    times: np.ndarray = np.sort(log["scheduled"].to_numpy()) - log.attrs["started"]
    return times


def test_schedule_follows_from_the_seed(tools: Path) -> None:
    with serving(answer(b"e")) as port:
        first, again = (schedule(tools, port, seed=5) for _ in range(2))
        other = schedule(tools, port, seed=6)
    assert first == pytest.approx(again, abs=1e-6)
    assert len(first) != len(other) or not np.allclose(first, other)


def test_periodic_targets_are_out_of_phase(tools: Path) -> None:
    """Equal servers under equal loads do not get their requests at the same moments."""
    with serving(answer(b"e")) as port:
        log = load(tools, f"echo 127.0.0.1 {port} 5 periodic\n" * 20)
    first = log.groupby("target")["scheduled"].min() - log.attrs["started"]
    assert first.max() <= 0.2
    assert first.std() > 0.02
    assert log.groupby("target").size().tolist() == [5] * 20


def test_poisson_arrivals_have_exponential_gaps(tools: Path) -> None:
    from scipy.stats import kstest

    with serving(answer(b"e")) as port:
        gaps = np.diff(schedule(tools, port, seconds=3))
    assert kstest(gaps, "expon", args=(0, 1 / 200)).pvalue > 0.001
    assert len(gaps) == pytest.approx(600, abs=5 * np.sqrt(600))


def test_rate_rises_linearly_during_the_ramp(tools: Path) -> None:
    with serving(answer(b"e")) as port:
        times = schedule(tools, port, "periodic", ramp=1, seconds=1)
    in_ramp = times[times < 1]
    assert len(in_ramp) == pytest.approx(100, abs=1)
    assert len(times) - len(in_ramp) == pytest.approx(200, abs=1)
    # half of the time has a quarter of the arrivals
    assert np.sum(in_ramp < 0.5) == pytest.approx(25, abs=1)


def test_load_without_targets_ends_at_once(tools: Path) -> None:
    assert load(tools, "", seconds=60).empty


@pytest.mark.parametrize(
    ("arguments", "targets", "message"),
    [
        ("1 0 1", "", "usage: hv-load SEED RAMP SECONDS DRAIN [CPU]"),
        ("1 0 0 1", "", "SECONDS must be a number from 0.1 to 86400, not 0"),
        ("1 0 nan 1", "", "SECONDS must be a number"),
        ("-1 0 1 1", "", "SEED must be a number"),
        ("1 0 1 1", "http 127.0.0.1 80", "target 0 is not PROTOCOL ADDRESS PORT RATE ARRIVALS"),
        ("1 0 1 1", "\n", "target 0 is not PROTOCOL"),
        ("1 0 1 1", "http 127.0.0.1 80 1 poisson extra", "target 0 is not PROTOCOL"),
        ("1 0 1 1", "http 127.0.0.1 80 fast poisson", "target 0 is not PROTOCOL"),
        ("1 0 1 1", "http 127.0.0.1 80x 1 poisson", "target 0 is not PROTOCOL"),
        ("1 0 1 1", "http\0 127.0.0.1 80 1 poisson", "target 0 is not PROTOCOL"),
        ("1 0 1 1", f"http 127.0.0.1 80 1 poisson{' ' * 300}", "target 0 is too long"),
        ("1 0 1 1", "echo 127.0.0.1 1 1 poisson\nhttp", "target 1 is not PROTOCOL"),
        ("1 0 1 1", "http 127.0.0.1 -1 1 poisson", "the wrong address 127.0.0.1 port"),
        ("1 0 1 1", "http 127.0.0.1 0 1 poisson", "the wrong address 127.0.0.1 port 0"),
        ("1 0 1 1", "http 300.0.0.1 80 1 poisson", "target 0 has the wrong address 300.0.0.1"),
        ("1 0 1 1", "http ::1 80 1 poisson", "target 0 has the wrong address ::1"),
        ("1 0 1 1", "http 127.0.0.1 80 inf poisson", "target 0 has a rate that is not in"),
        ("1 0 1 1", "http 127.0.0.1 80 -5 poisson", "target 0 has a rate that is not in"),
        ("1 0 1 1", "ftp 127.0.0.1 80 1 poisson", "target 0 has the unknown protocol ftp"),
        ("1 0 1 1", "http localhost 80 1 poisson", "target 0 has the wrong address localhost"),
        ("1 0 1 1", "http 127.0.0.1 99999 1 poisson", "the wrong address 127.0.0.1 port 99999"),
        ("1 0 1 1", "http 127.0.0.1 80 0 poisson", "target 0 has a rate that is not in"),
        ("1 0 1 1", "http 127.0.0.1 80 nan poisson", "target 0 has a rate that is not in"),
        ("1 0 1 1", "http 127.0.0.1 80 1 closed", "target 0 has the unknown arrivals closed"),
        ("1 0 86400 1", "http 127.0.0.1 80 2000 poisson", "requests are more than 100000000"),
        ("1 0 1 1", "echo 127.0.0.1 1 1 poisson\n" * 16385, "more than 16384 targets"),
    ],
)
def test_bad_arguments_are_named(tools: Path, arguments: str, targets: str, message: str) -> None:
    done = subprocess.run(
        [tools / "hv-load", *arguments.split()],
        input=targets,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert done.stdout == ""


def test_generator_has_no_rights(tools: Path) -> None:
    """While it runs it is nobody, has no new privileges, and a filter of system calls."""
    with serving(answer(b"e")) as port, subprocess.Popen(
        [tools / "hv-load", "1", "0", "5", "0"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(f"echo 127.0.0.1 {port} 10 poisson\n".encode())
        process.stdin.close()
        assert process.stderr.readline().startswith(b"started ")
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        process.kill()
    assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
    assert int(status["CapEff"], 16) == 0
    assert "0" not in status["Uid"].split()
