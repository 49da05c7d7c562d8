"""What becomes of appends and calls, in each face of the client: the same errors, the same words, the same order."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ringwal
from tests.support.faces import FACES, WAIT, Connected, Face
from tests.support.rig import Engine, OfAnotherBuild, stop_process, until

CALLS: dict[str, Callable[[Connected], Any]] = {
    "append": lambda client: client.append("s", b"x"),
    "append_many": lambda client: client.begin_many("s", [b"x", b"y"]).result(),
    "nowait": lambda client: client.begin("s", b"x").result(),
    "create": lambda client: client.create("t"),
    "delete": lambda client: client.delete("s"),
    "trim": lambda client: client.trim("s", 1),
    "configure": lambda client: client.configure("s", retention_records=3),
    "stat": lambda client: client.stat("s"),
    "offset_at": lambda client: client.offset_at("s", ringwal.At.from_ns(5)),
    "read": lambda client: client.read("s"),
    "waiting read": lambda client: client.read("s", 1, wait=WAIT),
    "records": lambda client: list(client.records("s")),
    "tail": lambda client: next(client.tail("s", 0)),
    "tail of several": lambda client: next(client.merged({"s": 0})),
    "streams": lambda client: client.streams(),
    "status": lambda client: client.status(),
}
APPENDS = ("append", "append_many", "nowait")


def told(call: Callable[[], object]) -> tuple[str, str | None, bool, str]:
    """The error that it raises: its class, what became of the record, whether to repeat it, and the words."""
    with pytest.raises(ringwal.Error) as caught:
        call()
    error = caught.value
    return type(error).__name__, error.outcome, error.retriable, str(error)


def refused(call: Callable[[], object], name: str) -> str:
    kind, outcome, _, said = told(call)
    assert (kind, outcome) == (name, "not_appended"), said
    return said


# ---------------------------------------------------------------------------------------------- the same in all of them


def fates_of_everything(face: Face, directory: Path, act: Callable[[], Any]) -> dict[str, Any]:
    """What each call is told after this has happened."""
    with face.connect(directory, timeout=1.0) as client:
        client.append("s", b"0")
        if act() == "close":
            client.close()
        found = {name: told(lambda call=call: call(client)) for name, call in CALLS.items()}  # type: ignore[misc]
        for name in APPENDS:
            assert found[name][1] == "not_appended"
    return found


@pytest.mark.parametrize("what", ["closed", "stopped", "killed", "replaced"])
def test_all_faces_say_the_same(directory: Path, start: Callable[..., Engine], what: str) -> None:
    """Of a client that is closed, an engine that stopped or was killed, another log in its place."""

    def act() -> str:
        if what == "closed":
            return "close"
        if what == "killed":
            running[0].kill()
            return ""
        assert running[0].terminate() == 0
        if what == "replaced":
            directory.rename(directory.with_name(f"log-{len(found)}"))
            running[0] = start()
        return ""

    found: dict[str, dict[str, Any]] = {}
    running = [start()]
    for face in FACES:
        found[face.name] = fates_of_everything(face, directory, act)
        if what in ("stopped", "killed"):
            running[0] = start()
    assert found["asyncio"] == found["sync"]
    assert found["uvloop"] == found["sync"]
    kinds = {kind for kind, *_ in found["sync"].values()}
    assert kinds == {"ClosedError"} if what == "closed" else kinds <= {"NotRunning"}, found["sync"]


def test_all_faces_refuse_the_same_with_the_same_words(directory: Path, start: Callable[..., Engine]) -> None:
    start(max_clients=1)
    wrong: dict[str, Callable[[Connected], Any]] = {
        "text": lambda client: client.begin("s", "text"),
        "no record": lambda client: client.begin_many("s", []),
        "text in a batch": lambda client: client.begin_many("s", [b"x", "y"]),
        "too large": lambda client: client.begin("s", bytes(1 << 20)).result(),
        "a batch that is too large": lambda client: client.begin_many("s", [bytes(1 << 19)] * 2).result(),
        "the engine's own": lambda client: client.begin("_own", b"x").result(),
        "no name": lambda client: client.begin("", b"x"),
        "no such stream": lambda client: client.stat("nobody"),
        "no such stream to read": lambda client: client.read("nobody"),
        "no such stream to follow": lambda client: next(client.tail("nobody")),
        "no such stream to trim": lambda client: client.trim("nobody", 1),
        "no such stream to configure": lambda client: client.configure("nobody", retention_records=1),
        "no such stream to delete": lambda client: client.delete("nobody"),
        "beyond its end": lambda client: client.trim("s", 100),
        "trimmed": lambda client: client.read("s", 0),
        "trimmed, to follow": lambda client: next(client.tail("s", 0)),
        "there with other settings": lambda client: client.create("kept", retention_records=2),
        "a setting": lambda client: client.configure("s", retention_age="tomorrow"),
        "a number": lambda client: client.read("s", -7),
        "less than 0": lambda client: client.read("s", -1),
        "less than 0, up to": lambda client: client.read("s", until=-1),
        "less than 0, that waits": lambda client: client.read("s", -2, wait=WAIT),
        "less than 0, each": lambda client: list(client.records("s", -2)),
        "less than 0, to follow": lambda client: next(client.tail("s", -1)),
        "less than 0, of several": lambda client: next(client.merged({"s": -1})),
        "a word": lambda client: next(client.tail("s", on_trimmed="latest")),
        "a timeout": lambda client: client.flush("s", -1.0),
        "a timeout to close in": lambda client: client.close(-1.0),
    }
    found: dict[str, dict[str, Any]] = {}
    for face in FACES:
        with face.connect(directory, timeout=1.0) as client:
            client.append_all("s", [b"%d" % n for n in range(5)])
            client.create("kept", retention_records=1)
            client.trim("s", 3)
            each = found[face.name] = {}
            for name, call in wrong.items():
                with pytest.raises(Exception) as caught:  # noqa: PT011  the same is what is asked for
                    call(client)
                error: Any = caught.value
                each[name] = (type(error), getattr(error, "outcome", None), str(error))
            client.delete("s")
    assert found["asyncio"] == found["sync"]
    assert found["uvloop"] == found["sync"]
    assert all(issubclass(kind, ringwal.Error | ValueError | TypeError) for kind, *_ in found["sync"].values())
    for name in (name for name in wrong if name.startswith("less than 0")):  # it is no offset, and none of the words
        kind, _, said = found["sync"][name]
        assert kind is ValueError, name
        assert all(way in said for way in ("from 0", "EARLIEST", "LATEST", "Last(n)", "At(t)")), said


def test_all_faces_say_the_same_where_nobody_is(directory: Path, start: Callable[..., Engine]) -> None:
    found = []
    for face in FACES:
        found.append([told(lambda face=face: face.connect(directory, timeout=1.0))])  # type: ignore[misc]
        directory.mkdir(exist_ok=True)
        found[-1].append(told(lambda face=face: face.connect(directory, timeout=1.0)))  # type: ignore[misc]
        directory.rmdir()
    assert found[0] == found[1] == found[2]
    start(max_clients=1)
    found.clear()
    for face in FACES:
        with ringwal.connect(directory) as only, face.connect(directory, timeout=1.0) as client:
            only.stream("s").append(b"x").result(WAIT)
            found.append([told(lambda: client.append("s", b"no place")), told(lambda: client.begin("s", b"no place").result())])
        until(lambda: not clients(directory), "its place is free")
    assert found[0] == found[1] == found[2]
    assert found[0][0][:2] == ("ShmUnavailable", "not_appended")


def test_all_faces_say_the_same_of_another_build(directory: Path, start: Callable[..., Engine]) -> None:
    """Whether it was there before, or has taken an engine's place while the client was attached."""
    found: dict[str, dict[str, Any]] = {}
    for face in FACES:
        running = start()
        with face.connect(directory, timeout=WAIT) as client:
            client.append("s", b"x")
            assert running.terminate() == 0
            with contextlib.closing(OfAnotherBuild(directory)) as other:
                found[face.name] = {name: told(lambda call=call: call(client)) for name, call in CALLS.items()}  # type: ignore[misc]
                for options in ({}, {"autostart": True}, {"reconnect": WAIT}):
                    found[face.name][f"connect {options}"] = told(lambda o=options: face.connect(directory, **o))  # type: ignore[misc] # noqa: B023
                assert other.terminate() == 0
    assert found["asyncio"] == found["sync"]
    assert found["uvloop"] == found["sync"]
    for name, (kind, outcome, _, said) in found["sync"].items():
        assert (kind, outcome) == ("VersionMismatch", "not_appended" if name in APPENDS else None)
        assert re.search("different builds .*install the same version on both sides and start them again", said)


def clients(directory: Path) -> list[Any]:
    with ringwal.connect(directory) as client:
        found: list[Any] = client.status()["clients"]
        return found


# --------------------------------------------------------------------------------------------------- one after the other


def test_what_is_pending_when_the_client_is_closed_is_unknown(
    directory: Path, start: Callable[..., Engine], face: Face
) -> None:
    running = start()
    with face.connect(directory) as client:
        client.append("s", b"x")
        stop_process(running.status()["wal_pid"])
        pending = client.begin("s", b"y")
        assert not pending.done()
        with pytest.raises(ringwal.AckTimeout, match="1 appends are not confirmed"):
            client.close(0.0)
        for _ in range(2):
            assert told(pending.result)[:2] == ("ClosedError", "unknown")
        assert pending.done()
        refused(lambda: client.append("s", b"z"), "ClosedError")
        client.close()  # twice is allowed


def test_what_is_pending_when_the_engine_is_killed_is_unknown(
    directory: Path, start: Callable[..., Engine], face: Face
) -> None:
    running = start()
    with face.connect(directory) as client:
        client.append("s", b"0")
        client.append("other", b"0")
        stop_process(running.status()["wal_pid"])
        pending = client.begin("s", b"lost, or not")
        running.kill()
        start()
        assert told(pending.result)[:2] == ("EngineFailed", "unknown")
        assert client.append("other", b"1") == 1
        assert client.append("s", b"1") > 0
        client.flush("s")  # it was told


def test_an_append_that_meets_the_end_of_the_engine_goes_to_its_successor(
    directory: Path, start: Callable[..., Engine], face: Face
) -> None:
    running = start()
    with face.connect(directory) as client:
        appends: list[Callable[[], int]] = [
            lambda: client.append("s", b"y"),
            lambda: client.begin("s", bytearray(b"y")).result().offset,
            lambda: client.begin_many("s", [b"y"]).result().offset,
        ]
        for n, append in enumerate(appends):
            assert client.append("s", b"x") == 2 * n
            if n == 0:
                running.kill()
            else:
                assert running.terminate() == 0
            running = start()
            assert append() == 2 * n + 1
        assert [record.data for record in client.read("s")] == [b"x", b"y"] * 3


@pytest.mark.parametrize("other_first", [False, True])
def test_an_append_does_not_come_behind_a_gap_that_nobody_was_told_of(
    directory: Path, start: Callable[..., Engine], face: Face, *, other_first: bool
) -> None:
    """Whoever meets the engine's end first, an append to another stream or to this one."""
    running = start()
    with face.connect(directory) as client:
        client.append("s", b"0")
        client.append("other", b"0")
        stop_process(running.status()["wal_pid"])
        pending = client.begin("s", b"lost, or not")
        running.kill()
        start()
        if other_first:
            assert client.append("other", b"1") > 0
        assert told(lambda: client.append("s", b"1"))[:2] == ("NotRunning", "not_appended")
        assert client.append("s", b"1") > 0
        with pytest.raises(ringwal.EngineFailed):
            client.flush("s")
        assert told(pending.result)[:2] == ("EngineFailed", "unknown")


def test_a_stream_that_is_deleted_under_its_handle(directory: Path, start: Callable[..., Engine], face: Face) -> None:
    start()
    with face.connect(directory) as client:
        for life in range(3):
            assert client.append("s", b"%d" % life) == 0
            tail = client.tail("s", 0)
            assert next(tail).data == b"%d" % life
            client.delete("s")
            assert told(lambda: next(tail))[0] == "StreamDeleted"  # noqa: B023
            assert told(lambda: client.stat("s"))[0] == "NoSuchStream"
            assert client.begin("s", b"next").result() == ringwal.Ack("s", 0, 1)
            client.delete("s")


def test_what_is_seen_is_the_same(directory: Path, start: Callable[..., Engine], face: Face) -> None:
    start()
    with face.connect(directory) as client:
        client.create("s", retention_records=1000)
        client.append_all("s", [b"%d" % n for n in range(300)])
        assert client.begin_many("s", [b"a", memoryview(b"b"), bytearray(b"c")]).result() == ringwal.Ack("s", 300, 3)
        assert [r.offset for r in client.records("s", 290)] == list(range(290, 303))
        assert [r.offset for r in client.tail("s", ringwal.Last(5), idle_timeout=0.0)] == list(range(298, 303))
        assert [r.offset for r in client.merged({"s": 300}, idle_timeout=0.0)] == [300, 301, 302]
        assert client.trim("s", 100) == 100
        info = client.stat("s")
        assert (info.start_offset, info.confirmed_offset, info.retention_records) == (100, 303, 1000)
        client.configure("s", retention_records=None)
        assert [each.own_settings for each in client.streams()] == [()]
        assert client.offset_at("s", ringwal.At.from_ns(1)) == 100
        assert client.status()["state"] == "running"
        assert [r.offset for r in client.tail("s", 7, on_trimmed="earliest", idle_timeout=0.0)][:2] == [100, 101]
    with ringwal.connect(directory) as reader:
        assert reader.stream("s").stat().records == 203


def test_the_first_step_of_a_call_goes_on_in_the_engines_successor(
    directory: Path, start: Callable[..., Engine], face: Face
) -> None:
    """The engine ends in order, and is killed, while calls are made; with ``reconnect`` none of them hears of it."""
    running = start()
    with face.connect(directory, reconnect=WAIT) as client:
        assert client.append("s", b"0") == 0
        errors: list[BaseException] = []
        ended = threading.Event()

        def ask() -> None:
            try:
                while not ended.is_set():
                    assert client.read("s", wait=1.0)[0].data == b"0"
                    assert next(iter(client.tail("s", 0))).offset == 0
                    assert next(iter(client.merged({"s": 0}))).offset == 0
                    assert next(iter(client.records("s"))).offset == 0
                    assert client.status()["state"] in ("running", "stopping", "stopped")
            except BaseException as error:  # noqa: BLE001
                errors.append(error)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for orderly in (True, False, True, False):
            if orderly:
                assert running.terminate() == 0
            else:
                running.kill()
            running = start()
            client.append("s", b"x")
        ended.set()
        for thread in threads:
            thread.join(WAIT)
        assert errors == []
