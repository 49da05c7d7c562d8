"""An engine whose standard descriptors are full, as nobody reads them, serves like any other."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import ringwal
from ringwal.standard import Hasty, takes
from tests.integration.test_surroundings import served
from tests.support import rig
from tests.support.rig import WAIT, until


def pipe() -> tuple[int, int]:
    return os.pipe()


def sockets() -> tuple[int, int]:
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


@pytest.fixture(params=[pipe, sockets, os.openpty], ids=["pipe", "socket", "terminal"])
def full(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """Two ends: nobody reads the first, so the second is full, or it is a stopped terminal. Its flags are as they were."""
    make: Callable[[], tuple[int, int]] = request.param
    reader, writer = make()
    if os.isatty(writer):
        termios.tcflow(writer, termios.TCOOFF)
    before = os.get_blocking(writer)
    os.set_blocking(writer, False)
    for size in (4096, 1):  # to the last byte
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"x" * size)
    os.set_blocking(writer, before)
    yield reader, writer
    os.close(reader)
    with contextlib.suppress(OSError):
        os.close(writer)


def drain(reader: int, writer: int) -> bytes:
    """All that is in it."""
    if os.isatty(writer):
        termios.tcflow(writer, termios.TCOON)
    os.set_blocking(reader, False)
    found = bytearray()
    with contextlib.suppress(BlockingIOError):
        while chunk := os.read(reader, 65536):
            found += chunk
    return bytes(found)


def restarted(client: ringwal.Client, times: int) -> bool:
    return bool(client.status()["restarts"] == times)


@pytest.mark.parametrize("streams", [("stderr",), ("stdout", "stderr")], ids=" and ".join)
def test_a_full_standard_descriptor_holds_up_nothing(
    full: tuple[int, int], streams: tuple[str, ...], tmp_path: Path
) -> None:
    directory = tmp_path / "log"
    ends: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, **dict.fromkeys(streams, full[1])}
    command = [sys.executable, "-m", "ringwal", "run", str(directory), "--ring-bytes=1MiB", "--segment-bytes=8MiB"]
    engine = subprocess.Popen(command, env=rig.environment(rig.CHECKOUT), **ends)
    try:
        until(lambda: served(directory) or engine.poll() is not None, "the engine serves")
        with ringwal.connect(directory, timeout=WAIT, append_timeout=WAIT) as client:
            stream = client.stream("s")
            for restarts, role in enumerate(("wal_pid", "drain_pid"), start=1):  # each is a warning
                os.kill(client.status()[role], signal.SIGKILL)
                stream.append(b"x").result(WAIT)
                until(partial(restarted, client, restarts), "it is replaced")
            drain(*full)
            os.kill(client.status()["wal_pid"], signal.SIGKILL)
            until(lambda: client.status()["restarts"] == 3, "it is replaced")
            said = b""
            while b"replaced WAL" not in said:
                said += drain(*full)
            assert b"messages before this one were dropped" in said
            assert [record.data for record in stream.read(0)] == [b"x", b"x"]
        engine.terminate()
        assert engine.wait(WAIT) == 0
    finally:
        engine.kill()
        engine.wait(WAIT)


def test_what_was_dropped_is_counted(full: tuple[int, int]) -> None:
    reader, writer = full
    stream = Hasty(writer)
    assert not takes(writer)
    assert [stream.write(f"line {n}\n") for n in range(3)] == [7, 7, 7]
    drain(reader, writer)
    assert takes(writer)
    stream.write("line 3\n")
    stream.write("line 4\n")
    said = drain(reader, writer).replace(b"\r\n", b"\n")
    assert said == b"(3 messages before this one were dropped: nobody read them)\nline 3\nline 4\n"
    assert os.get_blocking(writer)


def test_a_file_is_written_like_any_other(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.write(b"before\n")
        file.flush()
        Hasty(file.fileno()).write("caf\udce9\n")
    assert (tmp_path / "file").read_bytes() == b"before\ncaf\\udce9\n"


def test_a_reader_that_has_gone_raises_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    Hasty(writer).write("x\n")
    os.close(writer)
    Hasty(writer).write("x\n")
