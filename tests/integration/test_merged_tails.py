"""Several streams followed together, in each face of the client: in log order, and never beyond a gap."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import pytest

import ringwal
import ringwal.aio
from ringwal import EARLIEST, LATEST, Last
from tests.support.faces import BEGINNING_AT_THE_CALL, WAIT, Face
from tests.support.rig import Engine, until

LONG = 60.0
"""Seconds of `reconnect`: longer than a test takes."""
NAMES = ("a", "b", "c")


@pytest.fixture(params=BEGINNING_AT_THE_CALL, ids=lambda face: face.name)
def face(request: pytest.FixtureRequest) -> Face:
    found: Face = request.param
    return found


def placed(records: Iterable[ringwal.StreamRecord]) -> list[tuple[str, int]]:
    return [(record.stream, record.offset) for record in records]


def written(directory: Path, turns: Iterable[str], size: int = 0, first: int = 0) -> list[tuple[str, bytes]]:
    """By one thread, in that order; all confirmed. The order of the log is that of one thread's appends."""
    found: list[tuple[str, bytes]] = []
    with ringwal.connect(directory) as client:
        for n, name in enumerate(turns, first):
            data = b"%d " % n + bytes(size)
            client.stream(name).append(data)
            found.append((name, data))
    return found


def turns(count: int, seed: int = 1) -> list[str]:
    chosen = random.Random(seed)
    return [chosen.choice(NAMES) for _ in range(count)]


def seen(records: Iterable[ringwal.StreamRecord]) -> list[tuple[str, bytes]]:
    return [(record.stream, record.data) for record in records]


@pytest.mark.parametrize(("count", "size"), [(3000, 0), (700, 16_000)], ids=["ring", "files"])
def test_records_of_all_come_in_the_order_in_which_they_were_written(
    directory: Path, start: Callable[..., Engine], face: Face, count: int, size: int
) -> None:
    start()
    with face.connect(directory) as client:
        for name in NAMES:
            client.create(name)
        live = client.merged(dict.fromkeys(NAMES, LATEST))
        order = written(directory, [*turns(count), "unwanted", "a"], size)
        wanted = [each for each in order if each[0] != "unwanted"]
        for most in (7, 1000):
            tail = client.merged(dict.fromkeys(NAMES, EARLIEST), max_records=most, idle_timeout=0.0)
            records = list(tail)
            assert seen(records) == wanted
            for name in NAMES:
                assert [record.offset for record in records if record.stream == name] == list(
                    range(sum(each[0] == name for each in order))
                )
        assert seen(islice(live, len(wanted))) == wanted


def test_each_begins_where_that_was_said(directory: Path, start: Callable[..., Engine], face: Face) -> None:
    start()
    written(directory, "abcabcabcabc")
    with face.connect(directory) as client:
        tail = client.merged({"a": 2, "b": LATEST, "c": Last(1)}, idle_timeout=0.0)
        written(directory, "cab")
        assert placed(tail) == [("a", 2), ("a", 3), ("c", 3), ("c", 4), ("a", 4), ("b", 4)]
        assert placed(client.merged({"a": 10}, idle_timeout=0.0)) == []
        own = client.merged({"a": Last(1)}, idle_timeout=0.0)
        assert [record[:2] for record in own] == [(4, b"1 ")]
        with pytest.raises(ringwal.NoSuchStream):
            client.merged({"a": 0, "d": 0})
        for wrong in ({}, {"a": -3}, {"a": "1"}, ["a"], None):
            with pytest.raises(ValueError, match=r"start of 'a'|mapping"):
                client.merged(wrong)  # type: ignore[arg-type]


def test_batches_and_times_of_their_own_come_as_they_are(directory: Path, start: Callable[..., Engine], face: Face) -> None:
    start()
    with ringwal.connect(directory) as writer, face.connect(directory) as client:
        writer.stream("a").append_many([b"%d" % n for n in range(2000)])
        writer.stream("b").append(b"timed", 5)
        writer.stream("a").append_many([b"x", b"y"], [6, 7]).result(WAIT)
        records = list(client.merged({"a": 0, "b": 0}, max_records=700, idle_timeout=0.0))
        assert placed(records) == [*(("a", n) for n in range(2000)), ("b", 0), ("a", 2000), ("a", 2001)]
        assert [record.own_timestamp_ns for record in records[1999:]] == [None, 5, 6, 7]
        assert records[0].timestamp_ns == records[1999].timestamp_ns == writer.stream("a").read(0)[0].timestamp_ns


def test_a_sparse_stream_far_behind_is_merged_with_a_busy_one(
    directory: Path, start: Callable[..., Engine], face: Face
) -> None:
    running = start()
    written(directory, [*("a" if n % 300 == 0 else "busy" for n in range(1200)), "b"], 16_000)
    until(lambda: running.status()["side_files"]["end"] >= 3, "side files")
    with face.connect(directory) as client:
        tail = client.merged({"a": 0, "b": 0}, idle_timeout=0.0)
        assert placed(tail) == [("a", 0), ("a", 1), ("a", 2), ("a", 3), ("b", 0)]


def test_what_is_trimmed_is_passed_over_only_if_that_was_said(
    directory: Path, start: Callable[..., Engine], face: Face
) -> None:
    start()
    written(directory, "ab" * 10)
    with face.connect(directory) as client:
        strict = client.merged({"a": 0, "b": 0}, max_records=3)
        tail = client.merged({"a": 0, "b": 0}, max_records=3, idle_timeout=0.0, on_trimmed="earliest")
        assert placed(islice(strict, 3)) == placed(islice(tail, 3)) == [("a", 0), ("b", 0), ("a", 1)]
        client.trim("b", 8)
        with pytest.raises(ringwal.OffsetTrimmed) as refusal:
            next(strict)
        assert (refusal.value.stream, refusal.value.start_offset) == ("b", 8)
        assert placed(tail) == [*(("a", n) for n in range(2, 9)), ("b", 8), ("a", 9), ("b", 9)]


def test_a_deleted_stream_ends_it_and_an_awaited_one_joins(
    directory: Path, start: Callable[..., Engine], face: Face
) -> None:
    start()
    with face.connect(directory) as client:
        client.create("a")
        tail = client.merged({"a": LATEST, "b": LATEST, "c": 1}, missing="wait")
        order = written(directory, "abcabc")
        assert seen(islice(tail, 5)) == [*order[:2], *order[3:]]
        client.delete("b")
        with pytest.raises(ringwal.StreamDeleted, match="'b'"):
            next(tail)
        late = client.merged({"x": LATEST}, missing="wait", idle_timeout=0.0)
        assert list(late) == []


def test_it_goes_on_over_the_ends_of_engines(directory: Path, start: Callable[..., Engine], face: Face) -> None:
    running = start()
    with face.connect(directory, reconnect=LONG) as reader:
        tail = reader.merged(dict.fromkeys(NAMES, LATEST), missing="wait", max_records=50)
        expected: list[tuple[str, bytes]] = []
        found: list[tuple[str, bytes]] = []
        taker = threading.Thread(target=lambda: found.extend(seen(islice(tail, 1200))))
        taker.start()
        for life in range(4):
            expected += written(directory, turns(300, life), 100, 300 * life)
            running.kill()
            running = start()
        taker.join(WAIT)
        assert found == expected
        running.kill()


def test_it_does_not_go_on_in_another_stream_of_a_name(directory: Path, start: Callable[..., Engine], face: Face) -> None:
    running = start()
    order = written(directory, "abab")
    with face.connect(directory, reconnect=LONG) as reader:
        tail = reader.merged({"a": 0, "b": 0})
        assert seen(islice(tail, 4)) == order
        running.kill()
        start()
        with face.connect(directory) as other:
            other.delete("a")
            for n in range(3):
                other.append("a", b"another one's %d" % n)
        with pytest.raises(ringwal.StreamDeleted, match="'a'"):
            next(tail)


def test_a_loop_follows_several_streams_over_the_end_of_an_engine(
    directory: Path, start: Callable[..., Engine]
) -> None:
    running = start()
    expected = written(directory, turns(500))

    async def main() -> None:
        nonlocal running
        async with ringwal.aio.connect(directory, timeout=WAIT, reconnect=LONG) as client:
            tail = client.tail(dict.fromkeys(NAMES, EARLIEST), max_records=100)
            found = [await anext(tail) for _ in range(300)]
            pending = asyncio.ensure_future(anext(tail))
            await asyncio.to_thread(running.kill)
            running = await asyncio.to_thread(start)
            found += [await pending] + [await anext(tail) for _ in range(199)]
            assert seen(found) == expected
            pending = asyncio.ensure_future(anext(tail))  # now it sleeps
            ack = await client.stream("c").append(b"last")
            assert (await pending)[:2] == (ack.offset, b"last")
            await tail.aclose()  # type: ignore[attr-defined]

    asyncio.run(asyncio.wait_for(main(), LONG))
    running.kill()


class OneThread:
    """Appends to the streams in turns, over the ends of WAL and drain processes, and knows what it has appended."""

    def __init__(self, directory: Path) -> None:
        self.order: list[str] = []
        self._stop = threading.Event()
        self._directory = directory
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        chosen = random.Random(3)
        with ringwal.connect(self._directory, append_timeout=WAIT) as client:
            while not self._stop.is_set():
                name = chosen.choice(NAMES)
                self.order.append(name)
                client.stream(name).append(b"%d" % (len(self.order) - 1) + bytes(chosen.choice((0, 900))))

    def end(self) -> None:
        self._stop.set()
        self._thread.join(WAIT)


@pytest.mark.parametrize("confirm_order", ["stream", "log"])
def test_a_reader_sees_a_prefix_whatever_is_killed(
    directory: Path, start: Callable[..., Engine], face: Face, confirm_order: str
) -> None:
    running = start(confirm_order=confirm_order)
    with face.connect(directory) as client:
        tail = client.merged(dict.fromkeys(NAMES, EARLIEST), missing="wait", max_records=64, idle_timeout=WAIT)
        writer = OneThread(directory)
        try:
            count = 0

            def take(records: Iterator[ringwal.StreamRecord]) -> None:
                nonlocal count
                for record in records:
                    assert int(record.data.rstrip(b"\0")) == count
                    assert record.stream == writer.order[count]
                    count += 1

            for kill in range(6):
                take(islice(tail, 3000))
                role = "drain_pid" if kill % 2 else "wal_pid"
                with contextlib.suppress(ProcessLookupError):
                    os.kill(running.status()[role], signal.SIGKILL)
        finally:
            writer.end()
        take(islice(tail, len(writer.order) - count))
        assert count == len(writer.order)
