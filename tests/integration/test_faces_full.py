"""No room, in each face of the client: in the lane, among the outstanding appends, in the log.

Whoever waits for room is told within its own time that nothing was appended, in the same words whatever the face. What found
room is confirmed when the engine goes on: in order, each once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ringwal
import ringwal.aio
from tests.support.faces import FACES, Connected, Face
from tests.support.loops import Run, on_asyncio, on_uvloop
from tests.support.mounts import tmpfs
from tests.support.rig import WAIT, Engine, stop_process

SHORT = 0.3
"""Seconds for which appends wait for room that does not come."""
FILE = (4 << 20) + 4096
"""Bytes of a segment's file."""
STORAGE = ("max_log_bytes", "disk")
SIZES = {"lane": 7000, "outstanding": 7}
"""Of records: what fills a lane of 64 KiB in a few, and what does not before 64 appends are outstanding."""


@pytest.fixture(params=[on_asyncio, on_uvloop])
def run(request: pytest.FixtureRequest) -> Run:
    found: Run = request.param
    return found


@contextlib.contextmanager
def taking_nothing(engine: Engine) -> Iterator[None]:
    """The process that takes from the lanes stands still."""
    pid = engine.pid("wal")
    stop_process(pid)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def records(what: str, count: int, size: int) -> list[bytes]:
    return [f"{what} {n} ".encode().ljust(size, b".") for n in range(count)]


def words(errors: list[ringwal.Error]) -> set[tuple[str, str | None, bool, str]]:
    """Their classes, what became of the records, whether to repeat it, and the words."""
    return {(type(each).__name__, each.outcome, each.retriable, str(each)) for each in errors}


def without_room(client: Connected, engine: Engine, size: int) -> tuple[int, set[Any]]:
    """How many of one caller's appends found room, and what all others were told."""
    offset = client.append("s", b"first")
    with taking_nothing(engine):
        accepted, errors = client.fill("s", records("in turn", 100, size))
        crowd = client.at_once("s", records("at once", 20, size))
        assert not any(each.done() for each in accepted)
    assert not any(isinstance(each, int) for each in crowd), "one that came behind those that were refused found room"
    errors += [each for each in crowd if not isinstance(each, int)]
    told = words(errors)
    assert [each.result().offset for each in accepted] == list(range(offset + 1, offset + 1 + len(accepted)))
    client.flush("s")  # all of them were told
    assert client.append("s", b"last") == offset + 1 + len(accepted)
    found = [record.data for record in client.read("s", offset)]
    assert found == [b"first", *records("in turn", len(accepted), size), b"last"]
    return len(accepted), told


@pytest.mark.parametrize("what", SIZES)
def test_without_room_all_faces_say_the_same(directory: Path, start: Callable[..., Engine], what: str) -> None:
    running = start(max_outstanding=64)
    found = []
    for face in FACES:
        with face.connect(directory, append_timeout=SHORT) as client:
            found.append(without_room(client, running, SIZES[what]))
    assert found[0] == found[1] == found[2]
    count, told = found[0]
    assert count == 64 - 1 if what == "outstanding" else count > 0
    ((name, outcome, retriable, said),) = told
    assert (name, outcome, retriable) == ("BackpressureTimeout", "not_appended", True)
    assert said.endswith("nothing was appended")


@pytest.mark.parametrize("what", SIZES)
def test_room_that_comes_and_goes(directory: Path, start: Callable[..., Engine], face: Face, what: str) -> None:
    """The engine takes nothing, and goes on, again and again, about as long as the appends wait. Each of them is made once,
    or its caller is told that it was not made."""
    running = start(max_outstanding=64)
    ended = threading.Event()

    def disturb() -> None:
        while not ended.wait(0.01):
            with taking_nothing(running):
                ended.wait(0.06)

    with face.connect(directory, append_timeout=0.05) as client:
        client.append("s", b"first")
        disturbing = threading.Thread(target=disturb)
        disturbing.start()
        found: list[tuple[int | ringwal.Error, bytes]] = []
        try:
            for turn in range(8):
                asked = records(f"turn {turn},", 100, SIZES[what])
                found += zip(client.at_once("s", asked), asked, strict=True)
        finally:
            ended.set()
            disturbing.join(WAIT)
        made = {offset: data for offset, data in found if isinstance(offset, int)}
        errors = [each for each, _ in found if not isinstance(each, int)]
        assert {each[:2] for each in words(errors)} <= {("BackpressureTimeout", "not_appended")}
        assert len(made) + len(errors) == len(found)
        client.flush("s")
        assert {record.offset: record.data for record in client.read("s", 1)} == made
        if face.name != "sync":  # the callers' order is that of their calls
            assert [data for _, data in sorted(made.items())] == [data for offset, data in found if isinstance(offset, int)]


def test_one_that_is_refused_leaves_the_queue_as_it_is(directory: Path, start: Callable[..., Engine], run: Run) -> None:
    """Where appends wait for room one behind the other: for what it is, or as its caller has gone."""
    running = start()

    async def main() -> None:
        async with ringwal.aio.connect(directory, append_timeout=None) as client:
            stream, other = client.stream("s"), client.stream("t")
            await asyncio.gather(stream.append(b"first"), other.append(b"first"))
            before = asyncio.all_tasks()
            with taking_nothing(running):
                waiting = [asyncio.ensure_future(stream.append(data)) for data in records("filling", 12, 7900)]
                waiting += [asyncio.ensure_future(stream.append(b"behind"))]
                too_large = asyncio.ensure_future(stream.append(bytes(1 << 20)))
                waiting += [asyncio.ensure_future(stream.append(b"last"))]
                others = [asyncio.ensure_future(other.append(data)) for data in records("other", 12, 7900)]
                await asyncio.sleep(0)
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0):
                        await stream.append(b"nobody waits for this one")
                waiting[10].cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting[10]
            acks = await asyncio.gather(*waiting[:10], *waiting[11:])
            assert [ack.offset for ack in acks] == [*range(1, 11), *range(12, 15)]  # who gives up takes nothing back
            assert [ack.offset for ack in await asyncio.gather(*others)] == list(range(1, 13))
            with pytest.raises(ringwal.RecordTooLarge) as refused:
                await too_large
            assert refused.value.outcome == "not_appended"
            await stream.flush()
            found = [record.data for record in await stream.read(1)]
            assert found[:12] == records("filling", 12, 7900)
            assert found[12:] == [b"behind", b"last", b"nobody waits for this one"]
            assert asyncio.all_tasks() == before

    run(main())


def test_each_that_waits_has_its_own_time(directory: Path, start: Callable[..., Engine], run: Run) -> None:
    """From its call on, whoever is before it."""
    running = start()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with ringwal.aio.connect(directory, append_timeout=2.0) as client:
            stream = client.stream("s")
            await stream.append(b"first")
            began = loop.time()
            with taking_nothing(running):
                early = [stream.append_nowait(data) for data in records("early", 20, 8000)]
                await asyncio.sleep(1.5)
                late = [stream.append_nowait(data) for data in records("late", 3, 8000)]
                with pytest.raises(ringwal.BackpressureTimeout):
                    await early[-1]
                assert loop.time() >= began + 2.0
                accepted = [each for each in early if not each.done()]
                assert early[: len(accepted)] == accepted
                assert not any(each.done() for each in late)
            told = await asyncio.gather(*early, *late, return_exceptions=True)
        refused = [each for each in told if isinstance(each, ringwal.Error)]
        assert {type(each) for each in refused} == {ringwal.BackpressureTimeout}
        assert {each.outcome for each in refused} == {"not_appended"}
        acks = [each for each in told if isinstance(each, ringwal.Ack)]
        assert [ack.offset for ack in acks] == list(range(1, 1 + len(accepted) + len(late)))

    run(main())


def test_a_flush_tells_of_each_that_nobody_was_told_of(directory: Path, start: Callable[..., Engine], run: Run) -> None:
    """Not only of the first: that one's caller may have been told."""
    running = start()

    async def main() -> None:
        async with ringwal.aio.connect(directory, append_timeout=0.05) as client:
            stream = client.stream("s")
            await stream.append(b"first")
            with taking_nothing(running):
                receipts = [stream.append_nowait(data) for data in records("x", 20, 8000)]
                with pytest.raises(ringwal.BackpressureTimeout):
                    await receipts[-1]
                refused = [each for each in receipts if each.done()]
                for each in refused[:-2]:
                    with pytest.raises(ringwal.BackpressureTimeout):
                        await each
            with pytest.raises(ringwal.BackpressureTimeout, match="nothing was appended"):
                await stream.flush()
            await stream.flush()  # that was told

    run(main())


# ------------------------------------------------------------------------------------------------------- a full log


@contextlib.contextmanager
def small(what: str, place: Path) -> Iterator[Engine]:
    """An engine that has room for a few segments: by its settings, or on its disk."""
    with contextlib.ExitStack() as stack:
        settings = {"max_log_bytes": str(4 * FILE), "on_full": "refuse"}
        if what == "disk":
            place, settings = stack.enter_context(tmpfs(place, "20m")), {}
        else:
            place.mkdir()
        engine: Callable[..., Engine] = Engine
        yield stack.enter_context(contextlib.closing(engine(place / "log", **settings)))


def fill_the_log(directory: Path) -> None:
    """Until an append is refused for it."""
    with ringwal.connect(directory, append_timeout=SHORT) as client:
        stream = client.stream("s")
        with pytest.raises(ringwal.StorageFull):
            while True:
                with contextlib.suppress(ringwal.BackpressureTimeout):  # it is slow, and not full yet
                    stream.append(bytes(16_000))
        with pytest.raises(ringwal.AckTimeout):
            client.close(0)


def when_it_is_full(client: Connected, directory: Path, size: int) -> set[Any]:
    """What appends are told, until the stream is trimmed."""
    client.append("own", b"first")
    fill_the_log(directory)
    accepted, errors = client.fill("own", records("in turn", 30, size))
    crowd = client.at_once("own", records("at once", 5, size))
    assert not any(isinstance(each, int) for each in crowd), "one that came behind those that were refused found room"
    errors += [each for each in crowd if not isinstance(each, int)]
    offset = client.stat("own").start_offset
    client.trim("s", client.stat("s").confirmed_offset)
    assert [each.result().offset for each in accepted] == list(range(offset + 1, offset + 1 + len(accepted)))
    assert client.append("own", b"last") == offset + 1 + len(accepted)
    client.flush("own")
    found = [record.data for record in client.read("own", offset)]
    assert found == [b"first", *records("in turn", len(accepted), size), b"last"]
    return words(errors)


@pytest.mark.parametrize("what", STORAGE)
def test_of_a_full_log_all_faces_say_the_same(tmp_path: Path, what: str) -> None:
    found = []
    for face in FACES:  # each in a log of its own: one that was trimmed may be given more room at any time
        with small(what, tmp_path / face.name) as engine, face.connect(engine.directory, append_timeout=SHORT) as client:
            found.append(when_it_is_full(client, engine.directory, 7900))
    assert found[0] == found[1] == found[2]
    ((name, outcome, retriable, said),) = found[0]
    assert (name, outcome, retriable) == ("StorageFull", "not_appended", True)
    assert said.startswith("this append was not made") and "trim or delete streams" in said


@pytest.mark.parametrize("what", STORAGE)
def test_who_waits_for_space_can_be_cancelled(tmp_path: Path, run: Run, what: str) -> None:
    """It leaves no task behind. The append that it waited for goes on, as ever."""

    async def main(directory: Path) -> None:
        async with ringwal.aio.connect(directory, append_timeout=None) as client:
            stream = client.stream("own")
            await stream.append(b"first")
            await asyncio.to_thread(fill_the_log, directory)
            before = asyncio.all_tasks()
            data = records("given up", 20, 7900)
            for each in data:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await stream.append(each)
            queue = asyncio.all_tasks() - before
            assert len(queue) <= 1, "the queue of the stream is all that waits"
            await client.stream("s").trim((await client.stream("s").stat()).confirmed_offset)
            assert (await stream.append(b"last")).offset == 21
            await stream.flush()
            assert [record.data for record in await stream.read(1)] == [*data, b"last"]
            assert asyncio.all_tasks() == before

    with small(what, tmp_path / "place") as engine:
        run(main(engine.directory))
