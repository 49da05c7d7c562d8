"""Under gunicorn: a client that is made at import, in each worker or before they are forked, while workers come and go."""

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

pytest.importorskip("gunicorn")

APP = """
import atexit, itertools, os, ringwal

client = ringwal.connect(os.environ["LOG"], autostart=True, timeout=30.0)
atexit.register(client.close)
orders = client.stream("orders")
client.stream("starts").append(b"loaded").result()  # so what a fork inherits is in use
numbers = itertools.count()

def app(environ, start_response):
    body = environ["wsgi.input"].read()
    said = b"pong"
    if environ["PATH_INFO"] == "/append":
        ack = orders.append(b"%d %d %s" % (os.getpid(), next(numbers), body)).result()
        said = b"%d %d" % (os.getpid(), ack.offset)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(said)))])
    return [said]
"""
WORKERS = 3
KINDS = {
    "each worker its client": (),
    "a client before the fork": ("--preload",),
    "gevent": ("-k", "gevent"),
    "gevent, a client before the fork and before it has patched": ("-k", "gevent", "--preload"),
    "threads": ("-k", "gthread", "--threads", "4"),
    "threads, a client before the fork": ("-k", "gthread", "--threads", "4", "--preload"),
}


@contextlib.contextmanager
def serving(place: Path, directory: Path, *options: str) -> Iterator[tuple[Program, socket.socket]]:
    script(place, "app.py", APP)
    with listening(place) as listener, Program(
        "-m", "gunicorn", "--bind", f"fd://{listener.fileno()}", "--workers", str(WORKERS), *options, "app:app",
        place=place,
        env={"LOG": str(directory), "XDG_RUNTIME_DIR": str(place)},
        pass_fds=[listener.fileno()],
    ) as server:  # fmt: skip
        try:
            yield server, listener
        finally:
            print(server.said())


def stop(server: Program) -> None:
    server.process.terminate()
    server.check()


def records(directory: Path) -> list[str]:
    with ringwal.open_readonly(directory) as log:
        return [record.data.decode() for record in log.stream("orders").records()]


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_every_answer_is_in_the_stream_once_whatever_workers_do(
    directory: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    with serving(tmp_path, directory, *options) as (server, listener):
        with Load(listener, "/append") as load:
            load.until(lambda: len(load.workers()) == WORKERS, "all workers answer")
            killed = min(load.workers())
            os.kill(killed, signal.SIGKILL)
            load.until(lambda: rig.state_of(killed) == "X", "the worker is gone")
            # gunicorn loses a signal to a worker that is still beginning, so each has answered before the next one
            load.until(lambda: len(load.workers() - {killed}) == WORKERS, "another one has taken its place")
            old = load.workers() - {killed}
            server.process.send_signal(signal.SIGHUP)
            load.until(lambda: not old & rig.children_of(server.pid), "the old workers are gone")
            load.until(lambda: len(load.workers() - old - {killed}) == WORKERS, "the new ones answer")
        stop(server)
    load.check(records(directory), in_order="-k" not in options)


def test_an_append_that_waits_holds_no_other_request_of_its_gevent_worker(
    directory: Path, tmp_path: Path, start: Callable[..., Engine]
) -> None:
    engine = start()
    for preload in ((), ("--preload",)):
        with serving(tmp_path, directory, "-k", "gevent", "--workers", "1", *preload) as (server, listener):
            assert ask(listener, "/ping") == (200, "pong")
            with Load(listener, "/append", requesters=2) as load:
                load.await_answers(4)
                rig.stop_process(engine.facts["wal_pid"])
                try:
                    before = load.answers()
                    for _ in range(20):
                        assert ask(listener, "/ping") == (200, "pong")
                    assert load.answers() <= before + 2, "nothing is confirmed meanwhile"
                finally:
                    os.kill(engine.facts["wal_pid"], signal.SIGCONT)
                load.await_answers(4)
            stop(server)
        (tmp_path / "s").unlink(missing_ok=True)
