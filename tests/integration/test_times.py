"""Times: a record's own, and times as places in a stream."""

from __future__ import annotations

import bisect
import datetime
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

import ringwal
from tests.support.rig import WAIT, Engine, read_all

LATEST_NS = (1 << 63) - 1


def own_of(records: list[ringwal.Record]) -> list[int | None]:
    return [record.own_timestamp_ns for record in records]


# ---------------------------------------------------------------------------------------------------- a record's own


def test_a_record_keeps_its_own_time_wherever_it_is_read_from(directory: Path, start: Callable[..., Engine]) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        stream.append(b"plain")
        stream.append(b"one", timestamp_ns=7)
        stream.append(bytearray(b"two"), timestamp_ns=LATEST_NS)
        stream.append_many([b"a", b"", b"c"], timestamp_ns=[9, 0, 5])
        stream.append_many([b"d", b"e"], timestamp_ns=3)
        stream.append_many([b"f"], timestamp_ns=iter([4]))
        assert stream.append_many([b"plain", b"too"]).result(WAIT).offset == 9
        data = [b"plain", b"one", b"two", b"a", b"", b"c", b"d", b"e", b"f", b"plain", b"too"]
        own = [None, 7, LATEST_NS, 9, 0, 5, 3, 3, 4, None, None]
        found = list(read_all(stream))
        assert [record.data for record in found] == data
        assert own_of(found) == own
        assert [record.own_timestamp_ns for offset in range(len(data)) for record in stream.read(offset, max_records=1)] == own
        assert own_of(list(stream.tail(0, idle_timeout=0.0))) == own
        assert pickle.loads(pickle.dumps(found)) == found
        stamps = [record.timestamp_ns for record in found]
        assert stamps == sorted(stamps)
        assert stamps[0] > 1_500_000_000_000_000_000  # the engine's, and of today
        for n in range(1000):  # until the ring has turned
            client.stream("other").append(bytes(16_000), timestamp_ns=n)
        client.stream("other").flush(WAIT)
        assert own_of(list(read_all(stream))) == own
        assert own_of(client.stream("other").read(990, max_records=5)) == [990, 991, 992, 993, 994]
    assert running.terminate() == 0
    start()
    with ringwal.connect(directory) as client:
        assert own_of(list(read_all(client.stream("s")))) == own


def test_times_survive_a_kill_of_everything(directory: Path, start: Callable[..., Engine]) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        for n in range(100):
            client.stream(f"s{n % 3}").append_many([b"x", b"y"], timestamp_ns=[n, n + 1])
        for n in range(3):
            client.stream(f"s{n}").flush(WAIT)
    running.kill()
    start()
    with ringwal.connect(directory) as client:
        for n in range(3):
            assert own_of(list(read_all(client.stream(f"s{n}")))) == [each for i in range(n, 100, 3) for each in (i, i + 1)]


@pytest.mark.parametrize("own", [-1, 1 << 63, 1.5, True, "1", b"1", float("nan")])
def test_a_time_that_there_is_not_is_refused_and_nothing_is_appended(
    own: object, directory: Path, start: Callable[..., Engine]
) -> None:
    start()
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        with pytest.raises(ValueError, match=r"timestamp_ns is .*whole number from 0 to 9223372036854775807"):
            stream.append(b"x", timestamp_ns=own)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"timestamp_ns is .*whole number"):
            stream.append_many([b"x", b"y"], timestamp_ns=[1, own])  # type: ignore[list-item]
        with pytest.raises(ValueError, match=r"timestamp_ns is .*whole number"):
            stream.append_many([b"x"], timestamp_ns=own)  # type: ignore[arg-type]
        for wrong in ([], [1], [1, 2, 3]):
            with pytest.raises(ValueError, match=rf"{len(wrong)} times for 2 records"):
                stream.append_many([b"x", b"y"], timestamp_ns=wrong)
        assert stream.append(b"first", timestamp_ns=0).result(WAIT).offset == 0


def test_the_largest_record_with_a_time_is_eight_bytes_smaller(directory: Path, start: Callable[..., Engine]) -> None:
    start()
    with ringwal.connect(directory, lane_bytes=1 << 16) as client:
        stream = client.stream("s")
        with pytest.raises(ringwal.RecordTooLarge) as refused:
            stream.append(bytes(1 << 20), timestamp_ns=1)
        limit = refused.value.limit
        assert limit is not None
        with pytest.raises(ringwal.RecordTooLarge):
            stream.append(bytes(limit - 7), timestamp_ns=1)
        assert stream.append(bytes(limit - 8), timestamp_ns=1).result(WAIT).offset == 0
        assert stream.append(bytes(limit)).result(WAIT).offset == 1


# ------------------------------------------------------------------------------------------------- times as places


def spread(stream: ringwal.Stream, count: int) -> list[ringwal.Record]:
    """Records of ``count`` different times, some of them in batches."""
    times: set[int] = set()
    while len(times) < count:
        batch = [b"%d" % len(times)] * (1 + len(times) % 3)
        stream.append_many(batch, timestamp_ns=len(times)).result(WAIT)
        times.add(stream.stat().last_timestamp_ns)
    return list(stream.records())


def test_a_time_is_a_place_wherever_an_offset_is_one(directory: Path, start: Callable[..., Engine]) -> None:
    start()
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        records = spread(stream, 30)
        stamps = [record.timestamp_ns for record in records]
        for stamp in {stamps[0] - 1, *stamps, *(each + 1 for each in stamps)}:
            at, place = ringwal.At.from_ns(stamp), bisect.bisect_left(stamps, stamp)
            assert stream.offset_at(at) == place
            assert stream.read(at) == list(stream.records(at)) == records[place:]
            assert stream.read(until=at) == list(stream.records(until=at)) == records[:place]
            assert list(stream.tail(at, idle_timeout=0.0)) == records[place:]
            assert stream.read(3, 5, until=at) == records[3 : min(8, place)]
        when = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
        assert stream.read(when) == stream.read(when, until=ringwal.LATEST) == records
        assert stream.read(until=when) == stream.read(until=ringwal.EARLIEST) == stream.read(7, until=7) == []
        assert stream.read(2, until=4) == records[2:4]
        assert stream.read(until=10_000) == records
        tomorrow = when + datetime.timedelta(days=2)
        assert (stream.offset_at(tomorrow), stream.read(tomorrow), stream.read(until=tomorrow)) == (len(records), [], records)


def test_a_time_before_the_oldest_record_that_is_kept_is_that_record(directory: Path, start: Callable[..., Engine]) -> None:
    start()
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        records = spread(stream, 10)
        assert stream.trim(before=4) == 4
        early = ringwal.At.from_ns(records[1].timestamp_ns)
        assert stream.offset_at(early) == 4
        assert stream.read(early) == records[4:]
        kept = next(i for i in range(len(records)) if records[i].timestamp_ns > records[5].timestamp_ns)
        assert stream.trim(before=ringwal.At.from_ns(records[kept].timestamp_ns)) == kept
        assert stream.trim(before=early) == kept
        assert stream.read(ringwal.EARLIEST) == records[kept:]
        assert stream.trim(before=datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)) == len(records)
        with pytest.raises(ringwal.OffsetTrimmed):
            stream.read(2, until=3)


def test_a_tail_waits_for_a_time_that_is_yet_to_come(directory: Path, start: Callable[..., Engine]) -> None:
    start()
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        stream.append(b"x").result(WAIT)
        wanted = stream.stat().last_timestamp_ns + 50_000_000
        tail = stream.tail(ringwal.At.from_ns(wanted), idle_timeout=0.0)
        late = client.stream("later").tail(ringwal.At.from_ns(wanted), idle_timeout=0.0, missing="wait")
        while stream.stat().last_timestamp_ns < wanted:
            stream.append(b"x").result(WAIT)
            client.stream("later").append(b"x").result(WAIT)
        assert list(tail) == [record for record in stream.records() if record.timestamp_ns >= wanted]
        found = list(client.stream("later").records())
        assert list(late) == [record for record in found if record.timestamp_ns >= wanted]


def test_a_time_of_no_zone_is_refused_wherever_a_time_is_taken(directory: Path, start: Callable[..., Engine]) -> None:
    start()
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        stream.append(b"x").result(WAIT)
        naive, day = datetime.datetime(2027, 1, 31), datetime.date(2027, 1, 31)  # noqa: DTZ001
        calls: list[tuple[Callable[..., object], str]] = [
            (stream.read, "start"), (stream.read, "until"), (stream.records, "start"), (stream.records, "until"),
            (stream.tail, "start"), (stream.offset_at, "when"), (stream.trim, "before"),
        ]  # fmt: skip
        for call, argument in calls:
            with pytest.raises(ValueError, match=rf"{argument} is .*no zone.*astimezone"):
                call(**{argument: naive})
            with pytest.raises((ValueError, TypeError), match=rf"{argument} is datetime.date"):
                call(**{argument: day})
        assert stream.stat().records == 1


def test_there_is_no_place_in_a_stream_that_is_not_there(directory: Path, start: Callable[..., Engine]) -> None:
    start()
    now = datetime.datetime.now(datetime.UTC)
    with ringwal.connect(directory) as client:
        for call in (client.stream("none").offset_at, client.stream("none").read, client.stream("none").trim):
            with pytest.raises(ringwal.NoSuchStream):
                call(now)
