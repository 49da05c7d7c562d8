"""Times: a record's own, and times as places in a stream."""

from __future__ import annotations

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
