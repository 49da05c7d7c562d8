"""Under uvicorn with several workers: a client in each, whose endpoints append while workers come and go."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ringwal
from tests.support import rig
from tests.support.programs import Program, script
from tests.support.rig import Engine
from tests.support.web_load import Load, ask, listening

pytest.importorskip("uvicorn")

APP = """
import asyncio, atexit, itertools, os, ringwal

client = ringwal.connect(os.environ["LOG"], autostart=True, timeout=30.0)
atexit.register(client.close)
orders = client.stream("orders")
numbers = itertools.count()

def append(body):
    ack = orders.append(b"%d %d %s" % (os.getpid(), next(numbers), body)).result()
    return b"%d %d" % (os.getpid(), ack.offset)

async def thread(body):
    return await asyncio.to_thread(append, body)

async def ping(body):
    return b"pong"

ENDPOINTS = {"/thread": thread, "/ping": ping}

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    said = await ENDPOINTS[scope["path"]](body)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(said))]})
    await send({"type": "http.response.body", "body": said})
"""
WORKERS = 2
APPENDING = ["/thread"]
"""The endpoints that append, one for each way: what holds of one holds of all."""


@contextlib.contextmanager
def serving(place: Path, directory: Path) -> Iterator[tuple[Program, socket.socket]]:
    script(place, "app.py", APP)
    with listening(place) as listener, Program(
        "-m", "uvicorn", "--fd", str(listener.fileno()), "--workers", str(WORKERS), "--no-access-log", "app:app",
        place=place, env={"LOG": str(directory)}, pass_fds=[listener.fileno()],
    ) as server:  # fmt: skip
        try:
            yield server, listener
        finally:
            print(server.said())


def stop(server: Program) -> None:
    server.process.terminate()
    assert server.wait() in (0, -signal.SIGTERM)  # it ends by the signal that it was asked by


@pytest.mark.parametrize("path", APPENDING)
def test_every_answer_is_in_the_stream_once_whatever_workers_do(directory: Path, tmp_path: Path, path: str) -> None:
    with serving(tmp_path, directory) as (server, listener):
        with Load(listener, path, requesters=8) as load:
            load.until(lambda: len(load.workers()) == WORKERS, "all workers answer")
            killed = min(load.workers())
            os.kill(killed, signal.SIGKILL)
            load.until(lambda: len(load.workers() - {killed}) == WORKERS, "another one has taken its place")
            old = load.workers() - {killed}
            server.process.send_signal(signal.SIGHUP)
            load.until(lambda: all(rig.state_of(pid) == "X" for pid in old), "the old workers are gone")
            load.until(lambda: len(load.workers() - old - {killed}) == WORKERS, "the new ones answer")
        stop(server)
    with ringwal.open_readonly(directory) as log:
        load.check([record.data.decode() for record in log.stream("orders").records()], in_order=False)


@pytest.mark.parametrize("path", APPENDING)
def test_an_append_that_waits_holds_no_other_request(
    directory: Path, tmp_path: Path, start: Callable[..., Engine], path: str
) -> None:
    engine = start()
    with serving(tmp_path, directory) as (server, listener):
        with Load(listener, path) as load:
            load.until(lambda: len(load.workers()) == WORKERS, "all workers answer")
            rig.stop_process(engine.facts["wal_pid"])
            try:
                for _ in range(20):
                    assert ask(listener, "/ping") == (200, "pong")
            finally:
                os.kill(engine.facts["wal_pid"], signal.SIGCONT)
            load.await_answers()
        stop(server)
