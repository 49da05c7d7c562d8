"""examples/webhook as it is run: what was answered with 200 is in the stream and was processed, once, whatever is killed."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import ringwal
from tests.support import rig
from tests.support.programs import Program, script
from tests.support.rig import Engine, until
from tests.support.web_load import Crowd, ask, listening

pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")

EXAMPLE = rig.CHECKOUT / "examples" / "webhook"
LOG, DATABASE = "webhooks.d", "worker.db"
IMPATIENT = """
import app as example

example.ANSWER_WITHIN, example.RECONNECT = 1.0, 0.5
app = example.app
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with the example's programs."""
    return Path(shutil.copytree(EXAMPLE, tmp_path / "example", ignore=shutil.ignore_patterns("__pycache__")))


class Server(Program):
    """The application under uvicorn."""

    def __init__(
        self,
        place: Path,
        *options: str,
        app: str = "app:app",
        env: dict[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        super().__init__("-m", "uvicorn", "--no-access-log", *options, app, place=place, env=env, pass_fds=pass_fds)

    def workers(self) -> list[int]:
        """Pids of all that were ready, in that order."""
        said = self.said()
        begun = [int(pid) for pid in re.findall(r"Started server process \[(\d+)\]", said)]
        return begun if said.count("Application startup complete") == len(begun) else []

    def await_workers(self, count: int) -> list[int]:
        until(lambda: len(self.workers()) == count, f"{count} workers in all")
        return self.workers()

    def stop(self) -> None:
        self.process.terminate()
        assert self.wait() in (0, -signal.SIGTERM)
        assert "Traceback" not in self.said(), self.said()


class Senders(Crowd):
    """They send deliveries, none twice, and note what they are told. At the end they have all answers."""

    def __init__(self, listener: socket.socket, count: int = 6) -> None:
        self.stored: dict[str, int] = {}
        """Answered with 200, and the offset."""
        self.told: dict[int | None, list[str]] = {}
        """What had another status, or no answer."""
        super().__init__(listener, self._send, [f"s{n}" for n in range(count)])

    def _send(self, who: str) -> None:
        number = 0
        while not self._stop.is_set():
            name, number = f"{who}.{number}", number + 1
            status: int | None = None
            with contextlib.suppress(OSError, http.client.HTTPException):
                status, said = ask(self._listener, "/webhooks/shop", f"body of {name}", {"webhook-id": name})
            if status == 200:
                self.stored[name] = json.loads(said)["offset"]
            else:
                self.told.setdefault(status, []).append(name)

    def await_stored(self, count: int = 40) -> None:
        """So many more."""
        before = len(self.stored)
        until(lambda: len(self.stored) >= before + count, f"{count} more are stored; told: {self.told}")


def names_in(directory: Path) -> list[str]:
    """What is in the stream, in its order."""
    found = []
    with ringwal.open_readonly(directory) as log:
        for record in log.stream("deliveries").records():
            head, _, body = record.data.partition(b"\n")
            told = json.loads(head)
            assert (told["source"], body.decode()) == ("shop", f"body of {told['id']}")
            found.append(told["id"])
    return found


def processed(place: Path) -> tuple[int, list[tuple[str, int]]]:
    """The worker's position, and names and records in the order in which it has processed them."""
    with contextlib.closing(sqlite3.connect(place / DATABASE)) as database:
        (position,) = database.execute("SELECT next FROM position").fetchone()
        return position, database.execute("SELECT id, record FROM processed ORDER BY rowid").fetchall()


def await_record(worker: Program, offset: int) -> None:
    while int(worker.line().split()[0]) != offset:
        pass


def engine_of(place: Path) -> dict[str, Any]:
    with ringwal.connect(place / LOG, timeout=rig.WAIT) as client:
        return client.status()


@contextlib.contextmanager
def serving(place: Path, *, app: str = "app:app", env: dict[str, str] | None = None) -> Iterator[tuple[Server, socket.socket]]:
    with listening(place) as listener:
        fd = listener.fileno()
        with Server(place, "--fd", str(fd), "--workers", "2", app=app, env=env, pass_fds=[fd]) as server:
            try:
                yield server, listener
            finally:
                print(server.said())


def test_what_was_answered_with_200_is_there_and_processed_once_whatever_is_killed(place: Path) -> None:
    with serving(place) as (server, listener), contextlib.ExitStack() as programs:
        worker = programs.enter_context(Program("worker.py", place=place))
        server.await_workers(2)
        with Senders(listener) as senders:
            for victim in ("wal_pid", "drain_pid", "pid"):
                senders.await_stored()
                os.kill(engine_of(place)[victim], signal.SIGKILL)
            senders.await_stored()
            worker.process.kill()
            worker.wait()
            worker = programs.enter_context(Program("worker.py", place=place))
            os.kill(server.workers()[0], signal.SIGKILL)
            server.await_workers(3)
            senders.await_stored()
        names = names_in(place / LOG)
        await_record(worker, len(names) - 1)
        worker.process.terminate()
        assert worker.wait() == -signal.SIGTERM, worker.said()
        server.stop()
    times = Counter(names)
    assert max(times.values()) == 1
    assert {name: names[offset] for name, offset in senders.stored.items()} == {name: name for name in senders.stored}
    assert senders.told.keys() <= {None, 503, 504}
    assert not times.keys() & set(senders.told.get(503, []))
    assert times.keys() <= {*senders.stored, *senders.told.get(None, []), *senders.told.get(504, [])}
    assert processed(place) == (len(names), [(name, offset) for offset, name in enumerate(names)])


def test_what_is_sent_until_it_is_answered_is_processed_once(place: Path) -> None:
    with Server(place, "--port", "0", "--workers", "2") as server, contextlib.ExitStack() as programs:
        server.await_workers(2)
        port = re.search(r"running on http://127\.0\.0\.1:(\d+)", server.said())
        assert port is not None
        worker = programs.enter_context(Program("worker.py", place=place))
        sender = programs.enter_context(Program("send.py", f"http://127.0.0.1:{port[1]}/webhooks/shop", "600", place=place))
        await_record(worker, 50)
        os.kill(engine_of(place)["pid"], signal.SIGKILL)
        await_record(worker, 150)
        os.kill(server.workers()[0], signal.SIGKILL)
        assert sender.check().splitlines()[-1] == "600 of 600 delivered"
        with ringwal.open_readonly(place / LOG) as log:
            records = [record.data.partition(b"\n") for record in log.stream("deliveries").records()]
        await_record(worker, len(records) - 1)
        server.stop()
    position, rows = processed(place)
    assert position == len(records)
    assert sorted(name for name, _ in rows) == sorted({json.loads(head)["id"] for head, _, _ in records})
    assert {json.loads(body)["order"] for _, _, body in records} == set(range(600))
    assert len(rows) == 600


def test_the_answer_says_what_became_of_the_delivery(place: Path) -> None:
    script(place, "impatient.py", IMPATIENT)
    engine = Engine(place / LOG)
    with contextlib.ExitStack() as engines:
        engines.callback(engine.close)
        with serving(place, app="impatient:app", env={"WEBHOOK_AUTOSTART": "no"}) as (server, listener):

            def send(name: str, body: str = "") -> tuple[int, dict[str, object]]:
                status, said = ask(listener, "/webhooks/shop", body or f"body of {name}", {"webhook-id": name})
                return status, json.loads(said)

            server.await_workers(2)
            assert send("a") == (200, {"offset": 0})
            assert ask(listener, "/webhooks/nobody")[0] == 404
            assert send("large", "x" * (300 << 10))[0] == 413

            rig.stop_process(engine.facts["wal_pid"])
            status, said = send("b")
            assert (status, said["stored"]) == (504, "unknown")
            os.kill(engine.facts["wal_pid"], signal.SIGCONT)
            assert send("c") == (200, {"offset": 2})  # "b" went on

            assert engine.terminate() == 0
            status, said = send("d")
            assert (status, said["stored"]) == (503, "no")
            engine = Engine(place / LOG)
            engines.callback(engine.close)
            until(lambda: send("e")[0] == 200, "it stores again")
            server.stop()
    names = names_in(place / LOG)
    assert names[:3] == ["a", "b", "c"]
    assert set(names[3:]) == {"e"}


def test_of_two_workers_on_one_database_one_ends(place: Path) -> None:
    with ringwal.connect(place / LOG, autostart=True, timeout=rig.WAIT) as client, contextlib.ExitStack() as programs:
        deliveries = client.stream("deliveries")
        deliveries.append(b'{"source": "shop", "id": null}\n').result()
        workers = [programs.enter_context(Program("worker.py", place=place))]
        await_record(workers[0], 0)
        workers.append(programs.enter_context(Program("worker.py", place=place)))

        def one_has_ended() -> bool:
            offset = deliveries.append(b'{"source": "shop", "id": null}\n').result().offset
            until(lambda: processed(place)[0] > offset, "the record is processed")
            return any(worker.process.poll() is not None for worker in workers)

        until(one_has_ended, "one of them notices the other one")
        ended = next(worker for worker in workers if worker.process.poll() is not None)
        assert (ended.wait(), "another worker uses worker.db" in ended.said()) == (1, True)
        end = deliveries.stat().confirmed_offset
    assert processed(place) == (end, [(f"record {n}", n) for n in range(end)])
