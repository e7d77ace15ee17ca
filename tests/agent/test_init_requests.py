"""Requests to a guest's init: the host's end, over a socket pair in place of vsock."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from harness.agent.init_requests import Send, request


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    host_end, guest_end = socket.socketpair()
    with host_end, guest_end:
        yield host_end, guest_end


def after(seconds: float) -> float:
    return time.monotonic() + seconds


def send_word(send: Send) -> None:
    send(b"prepare=1\n")


def test_answer_is_one_line(pair: tuple[socket.socket, socket.socket]) -> None:
    host_end, guest_end = pair
    guest_end.sendall(b"o")
    threading.Timer(0.05, guest_end.sendall, [b"k\n"]).start()
    assert request(host_end, send_word, after(5.0)) == "ok"
    assert guest_end.recv(100) == b"prepare=1\n"


def test_missing_answer_times_out(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        request(pair[0], send_word, after(0.2))
    assert time.monotonic() - began < 2


@contextlib.contextmanager
def repeating(action: Callable[[], object]) -> Iterator[None]:
    """Call `action` repeatedly in a thread while the block runs."""
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


def test_slow_answer_does_not_extend_the_deadline(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    host_end, guest_end = pair
    began = time.monotonic()
    # so slowly that the deadline comes before the limit of the line's length
    with repeating(lambda: guest_end.send(b"x")), pytest.raises(TimeoutError):
        request(host_end, send_word, after(0.5))
    assert time.monotonic() - began < 3


def test_slow_reader_does_not_extend_the_deadline(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    def send_much(send: Send) -> None:
        for _ in range(1000):
            send(bytes(1 << 16))

    host_end, guest_end = pair
    began = time.monotonic()
    with repeating(lambda: guest_end.recv(1 << 16)), pytest.raises(TimeoutError):
        request(host_end, send_much, after(0.5))
    assert time.monotonic() - began < 3


def test_closed_connection_raises_an_error(pair: tuple[socket.socket, socket.socket]) -> None:
    host_end, guest_end = pair
    guest_end.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionResetError, match="closed"):
        request(host_end, send_word, after(5.0))


def test_endless_answer_is_truncated(pair: tuple[socket.socket, socket.socket]) -> None:
    host_end, guest_end = pair
    guest_end.sendall(b"x" * 4096)
    assert 128 <= len(request(host_end, send_word, after(5.0))) <= 256
