"""Reading while others write: from the ring, from many segments, across a segment's end, asleep."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import ringwal
from tests.support.host import until
from tests.support.rig import WAIT, Engine, read_all

RECORD = 16_000


def data_of(n: int) -> bytes:
    return b"%d " % n + bytes([n % 251]) * (RECORD - n % 100)


def fill(stream: ringwal.Stream, first: int, count: int) -> None:
    for n in range(first, first + count):
        stream.append(data_of(n))
    stream.flush(WAIT)


def test_the_same_records_from_the_ring_and_from_several_segments(directory: Path, start: Callable[..., Engine]) -> None:
    running = start()
    count = 1000  # 16 MB: four segments, and 16 times the ring
    with ringwal.connect(directory) as client:
        stream, other = client.stream("s"), client.stream("other")
        other.append(b"alone among many").result(WAIT)
        fill(stream, 0, count)
        assert client.status()["segments"]["current"] >= 3
        assert [record.data for record in read_all(stream)] == [data_of(n) for n in range(count)]
        assert [record.data for record in stream.read(count - 5)] == [data_of(n) for n in range(count - 5, count)]
        assert [record.offset for record in stream.read(500, max_records=3)] == [500, 501, 502]
        assert len(stream.read(500, max_bytes=3 * RECORD + 100)) == 3
        assert len(stream.read(500, max_bytes=1)) == 1
        assert stream.read(count) == []
        assert stream.read(ringwal.LATEST) == []
        assert [record.data for record in other.read(ringwal.EARLIEST)] == [b"alone among many"]
        stamps = [record.timestamp_ns for record in read_all(stream)]
        assert stamps == sorted(stamps)
    assert running.terminate() == 0
    start()
    with ringwal.connect(directory) as client:
        fill(client.stream("s"), count, 10)
        assert [record.data for record in read_all(client.stream("s"))] == [data_of(n) for n in range(count + 10)]


def test_records_ends_where_the_stream_did_at_the_call(directory: Path, start: Callable[..., Engine]) -> None:
    start()
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        with pytest.raises(ringwal.NoSuchStream):
            stream.records()
        fill(stream, 0, 400)  # several times the ring
        found = stream.records()
        first = next(found)
        fill(stream, 400, 5)
        assert [first.data, *(record.data for record in found)] == [data_of(n) for n in range(400)]
        assert [record.offset for record in stream.records(3, 9)] == list(range(3, 9))
        assert [record.offset for record in stream.records(ringwal.EARLIEST, 2)] == [0, 1]
        assert [record.offset for record in stream.records(403, 1 << 40)] == [403, 404]
        assert list(stream.records(ringwal.LATEST)) == list(stream.records(9, 3)) == list(stream.records(1 << 40)) == []
        stream.trim(10)
        assert next(stream.records()).offset == 10
        with pytest.raises(ringwal.OffsetTrimmed):
            next(stream.records(9))
        for wrong in (-3, 1.0, "1", None):
            with pytest.raises(ValueError, match="until"):
                stream.records(0, wrong)  # type: ignore[arg-type]


def side_files_open() -> int:
    links = (os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}"))
    return sum(link.endswith(".side") for link in links)


def test_a_client_that_is_closed_holds_no_file_of_the_log(directory: Path, start: Callable[..., Engine]) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        fill(client.stream("s"), 0, 1200)
        until(lambda: running.status()["side_files"]["end"] >= 2, "side files")
    assert side_files_open() == 0
    client = ringwal.connect(directory)
    stream = client.stream("s")
    assert stream.read(3, max_records=1)[0].data == data_of(3)
    assert side_files_open() > 0
    client.close()
    assert side_files_open() == 0


def test_a_tail_follows_over_the_ends_of_segments(directory: Path, start: Callable[..., Engine]) -> None:
    running = start()
    count = 800
    seen: list[bytes] = []
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        stream.append(b"before").result(WAIT)
        tail = stream.tail(max_records=7)  # from now on

        def follow() -> None:
            for record in tail:
                assert record.offset == len(seen) + 1
                seen.append(record.data)
                if len(seen) == count:
                    return

        follower = threading.Thread(target=follow)
        follower.start()
        fill(stream, 0, count)
        follower.join(WAIT)
        assert client.status()["segments"]["current"] >= 2
    assert seen == [data_of(n) for n in range(count)]
    assert running.terminate() == 0


def test_a_tail_sleeps_through_other_streams_and_wakes_for_its_own(
    directory: Path, start: Callable[..., Engine]
) -> None:
    start()
    with ringwal.connect(directory) as reader, ringwal.connect(directory) as writer:
        tail = reader.create_stream("wanted").tail()
        got: list[ringwal.Record] = []
        parked = threading.Thread(target=lambda: got.append(next(tail)))
        parked.start()
        for _ in range(100):
            writer.stream("unwanted").append(b"x").result(WAIT)
        assert got == []
        writer.stream("wanted").append(b"here").result(WAIT)
        parked.join(WAIT)
        assert [record.data for record in got] == [b"here"]


def test_a_tail_ends_with_its_engine_and_after_its_idle_timeout(directory: Path, start: Callable[..., Engine]) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        stream.append(b"x").result(WAIT)
        assert [record.data for record in stream.tail(0, idle_timeout=0.01)] == [b"x"]
        failed: list[BaseException] = []
        tail = stream.tail()

        def follow() -> None:
            try:
                next(tail)
            except ringwal.Error as error:
                failed.append(error)

        follower = threading.Thread(target=follow)
        follower.start()
        running.kill()
        follower.join(WAIT)
        assert [type(error) for error in failed] == [ringwal.NotRunning]
        start()
        assert stream.append(b"y").result(WAIT).offset == 1
        assert [record.data for record in stream.read(0)] == [b"x", b"y"]
