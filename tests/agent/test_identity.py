"""What a guest's init is asked over vsock: the host's half, against a socket of the same kind."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from harness.agent.identity import Sending, ask


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def within(seconds: float) -> float:
    return time.monotonic() + seconds


def send_word(send: Sending) -> None:
    send(b"settle=1\n")


def test_an_answer_is_a_line(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(b"o")
    threading.Timer(0.05, theirs.sendall, [b"k\n"]).start()
    assert ask(ours, send_word, within(5.0)) == "ok"
    assert theirs.recv(100) == b"settle=1\n"


def test_who_says_nothing_has_so_long_and_no_longer(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        ask(pair[0], send_word, within(0.2))
    assert time.monotonic() - began < 2


@contextlib.contextmanager
def meanwhile(action: Callable[[], object]) -> Iterator[None]:
    """Again and again, in a thread, as long as the block lasts."""
    stop = threading.Event()

    def body() -> None:
        while not stop.wait(0.02):
            action()

    thread = threading.Thread(target=body)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_who_trickles_gains_no_time(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    began = time.monotonic()
    # so slowly that its line is not too long before
    with meanwhile(lambda: theirs.send(b"x")), pytest.raises(TimeoutError):
        ask(ours, send_word, within(0.5))
    assert time.monotonic() - began < 3


def test_who_takes_little_at_a_time_gains_none(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    def send_much(send: Sending) -> None:
        for _ in range(1000):
            send(bytes(1 << 16))

    ours, theirs = pair
    began = time.monotonic()
    with meanwhile(lambda: theirs.recv(1 << 16)), pytest.raises(TimeoutError):
        ask(ours, send_much, within(0.5))
    assert time.monotonic() - began < 3


def test_one_that_hangs_up_is_told(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionResetError, match="closed"):
        ask(ours, send_word, within(5.0))


def test_an_endless_line_is_cut(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(b"x" * 4096)
    assert 128 <= len(ask(ours, send_word, within(5.0))) <= 256
