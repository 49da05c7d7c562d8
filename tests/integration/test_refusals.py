"""Whom the engine turns away is told why, each time; and what came with somebody's packets holds up nobody else."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ringwal
from ringwal._native import lib
from ringwal.protocol.messages import SOCKET_NAME
from tests.support.rig import WAIT, Engine, stop_process, until

TIMES = 50
HELLO = json.dumps({"op": "hello", "layout": lib.rw_fingerprint(), "format": lib.RW_FORMAT_VERSION, "tag": 1}).encode()
LINGER_SECONDS = 3600


def dial(directory: Path) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    peer.connect(str(directory / SOCKET_NAME))
    return peer


@contextlib.contextmanager
def crowd(directory: Path, size: int) -> Iterator[None]:
    """So many strangers who connect and say nothing."""
    with contextlib.ExitStack() as stack:
        for _ in range(size):
            stack.enter_context(dial(directory))
        yield


def appends(directory: Path) -> bool:
    with contextlib.suppress(ringwal.ShmUnavailable), ringwal.connect(directory, timeout=WAIT) as client:
        return client.stream("s").append(b"x").result(WAIT).count == 1
    return False


def test_beyond_the_limit_of_connections_everybody_is_told_so(directory: Path, start: Callable[..., Engine]) -> None:
    start(max_clients=4)
    with crowd(directory, 72):
        for _ in range(TIMES):
            with pytest.raises(ringwal.ShmUnavailable, match=r"serves 72 connections already; .*max_clients"):
                ringwal.connect(directory, timeout=WAIT)
    until(lambda: appends(directory), "places are free again")


def test_beyond_the_limit_of_open_files_everybody_is_told_so(directory: Path, start: Callable[..., Engine]) -> None:
    start(wrapper=("prlimit", "--nofile=100:100"), max_clients=4)
    with crowd(directory, 90):
        for _ in range(TIMES):
            with pytest.raises(ringwal.ShmUnavailable, match=r"RLIMIT_NOFILE.*ulimit -n"):
                ringwal.connect(directory, timeout=WAIT)


@pytest.mark.parametrize("hears", [True, False], ids=["once it has come", "at once"])
def test_what_was_said_before_an_end_is_read(tmp_path: Path, hears: bool) -> None:
    """Whoever hangs up without having read the hello resets the connection."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / SOCKET_NAME))
        listener.listen()
        listener.settimeout(WAIT)

        def refuse() -> None:
            for _ in range(TIMES):
                peer, _ = listener.accept()
                with peer:
                    if hears:
                        select.select([peer], [], [], WAIT)
                    peer.send(b'{"ok": false, "error": "ShmUnavailable", "message": "for a reason", "size": 7}')

        refuser = threading.Thread(target=refuse, daemon=True)
        refuser.start()
        for _ in range(TIMES):
            with pytest.raises(ringwal.ShmUnavailable, match=r"^for a reason$") as caught:
                ringwal.connect(tmp_path, timeout=WAIT)
            assert caught.value.size == 7
        refuser.join(WAIT)


# ------------------------------------------------------------------------------------ descriptors of strangers


@contextlib.contextmanager
def lingering() -> Iterator[int]:
    """A descriptor whose last close waits for an hour: of a connection whose peer does not read."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        ours = socket.create_connection(listener.getsockname())
        peer = stack.enter_context(listener.accept()[0])
        # Closed with a reset, which ends the waiting.
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        ours.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                ours.send(bytes(65536))
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER_SECONDS))
        yield ours.detach()


def send_away(peer: socket.socket, packet: bytes, fd: int) -> None:
    """From now on it is on its way, and nobody else has it, as the other end stands still meanwhile."""
    socket.send_fds(peer, [packet], [fd])
    os.close(fd)


@contextlib.contextmanager
def standing_still(running: Engine) -> Iterator[None]:
    stop_process(running.process.pid)
    yield
    os.kill(running.process.pid, signal.SIGCONT)


CARRYING = {
    "with the hello": [(HELLO, True)],
    "behind the hello": [(HELLO, False), (b'{"op": "status", "tag": 2}', True)],
    "with what is no request": [(b"rubbish", True)],
    "behind what is no request": [(b"rubbish", False), (b"rubbish", True)],
    "with an empty packet": [(b"", True)],
    "behind many empty packets": [*[(b"", False)] * 5, (b"x", True)],
}


@pytest.mark.parametrize("packets", CARRYING.values(), ids=CARRYING)
def test_a_descriptor_that_takes_long_to_close_holds_up_nobody(
    directory: Path, start: Callable[..., Engine], packets: list[tuple[bytes, bool]]
) -> None:
    running = start()
    with contextlib.ExitStack() as stack:
        with standing_still(running):
            peers = [stack.enter_context(dial(directory)) for _ in range(2)]
            for peer in peers:
                for packet, carries in packets:
                    if carries:
                        send_away(peer, packet, stack.enter_context(lingering()))
                    else:
                        peer.send(packet)
        for peer in peers:
            with contextlib.suppress(ConnectionResetError):
                while peer.recv(1 << 16, socket.MSG_TRUNC):
                    pass
        with ringwal.connect(directory, timeout=WAIT) as client:
            assert client.stream("s").append(b"x").result(WAIT).offset == 0
        assert running.stop() == 0


def test_who_was_not_let_in_holds_up_no_stop(directory: Path, start: Callable[..., Engine]) -> None:
    running = start()
    with contextlib.ExitStack() as stack:
        with standing_still(running):
            send_away(stack.enter_context(dial(directory)), HELLO, stack.enter_context(lingering()))
            running.process.send_signal(signal.SIGTERM)
        assert running.wait() == 0


def test_more_of_them_than_there_are_threads_for_hold_up_nobody(directory: Path, start: Callable[..., Engine]) -> None:
    running = start()
    with contextlib.ExitStack() as stack:
        with standing_still(running):
            for _ in range(20):
                with dial(directory) as peer:
                    send_away(peer, HELLO, stack.enter_context(lingering()))
        for _ in range(3):
            ringwal.connect(directory, timeout=WAIT).close()


def test_descriptors_of_strangers_are_closed_in_the_end(directory: Path, start: Callable[..., Engine]) -> None:
    start()
    for _ in range(20):
        ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        with dial(directory) as peer:
            send_away(peer, b"rubbish", theirs)

        def at_its_end(fd: int = ours) -> bool:
            with contextlib.suppress(BlockingIOError):
                return os.read(fd, 1) == b""
            return False

        until(at_its_end, "nobody has the pipe any more")
        os.close(ours)
