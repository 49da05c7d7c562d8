"""Ordered reading: dense, confirmed, unchanged, whether the ring or the segments have it."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import pytest

from ringwal._native import lib
from ringwal.errors import CorruptionError, NotRunning, OffsetTrimmed
from ringwal.log import manifest as manifests
from ringwal.log.manifest import Manifest
from ringwal.model import Record
from ringwal.read import chunk
from ringwal.read import index as log_index
from ringwal.read import reader as readers
from ringwal.read.cursor import Cursor
from ringwal.read.reader import Reader
from ringwal.read.window import Ring
from tests.support.log_maker import PAGE, LogMaker, add, check, data_of, fill_ring, offsets
from tests.support.log_place import log_at


def all_of(cursor: Cursor, max_records: int = 1000, max_bytes: int | None = None) -> list[Record]:
    found: list[Record] = []
    while records := cursor.next(max_records, max_bytes):
        found += records
    return found


# ---------------------------------------------------------------------------------------------------- what is returned


def test_streams_are_kept_apart_and_in_order(log: LogMaker) -> None:
    for i in range(30):
        log.add((1, [data_of(1, 2 * i), data_of(1, 2 * i + 1)]), (2, [data_of(2, i)]), timestamp_ns=1000 + i)
    reading = log.reader()
    check(reading.read(1, 0), 1, 0, 60)
    check(reading.read(2, 7), 2, 7, 23)
    assert reading.read(2, 3, 1) == [Record(3, data_of(2, 3), 1003)]
    assert {record.timestamp_ns for record in reading.read(1, 8, 2)} == {1004}
    assert reading.read(3, 0) == []


def test_only_confirmed_records(log: LogMaker) -> None:
    add(log, 1, 3)
    add(log, 1, 2, confirm=False)
    reading = log.reader()
    check(reading.read(1, 0), 1, 0, 3)
    assert reading.read(1, 3) == []
    log.confirm()
    check(reading.read(1, 3), 1, 3, 2)


def test_start_beyond_the_end_negative_and_trimmed(log: LogMaker) -> None:
    add(log, 1, 5)
    reading = log.reader()
    assert reading.read(1, 5) == []
    assert reading.read(1, 1 << 40) == []
    with pytest.raises(ValueError, match="begin at 0"):
        reading.read(1, -1)
    with pytest.raises(ValueError, match="no place"):
        reading.read(log.streams, 0)
    with pytest.raises(ValueError, match="negative"):
        reading.read(1, 0, -1)
    lib.rw_stream_of(log.control, 1).start_offset = 2
    with pytest.raises(OffsetTrimmed) as caught:
        reading.read(1, 1)
    assert caught.value.start_offset == 2
    check(reading.read(1, 2), 1, 2, 3)


@pytest.mark.parametrize("on_disk", [False, True])
def test_limits(log: LogMaker, on_disk: bool) -> None:
    for _ in range(4):
        add(log, 1, 10, size=100)
    if on_disk:
        fill_ring(log)
    reading = log.reader()
    check(reading.read(1, 0, 7), 1, 0, 7, 100)
    check(reading.read(1, 7, 7), 1, 7, 7, 100)
    check(reading.read(1, 5, max_bytes=1000), 1, 5, 10, 100)
    check(reading.read(1, 5, max_bytes=1099), 1, 5, 10, 100)
    check(reading.read(1, 5, max_bytes=99), 1, 5, 1, 100)
    check(reading.read(1, 5, max_bytes=0), 1, 5, 1, 100)
    assert reading.read(1, 5, 0) == []
    check(all_of(reading.cursor(1, 3), 3), 1, 3, 37, 100)
    check(all_of(reading.cursor(1, 3), max_bytes=250), 1, 3, 37, 100)


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_batch_larger_than_one_pass_takes(log: LogMaker, on_disk: bool) -> None:
    count = 3 * lib.RW_SLICES + 17
    log.add((1, [data_of(1, i, i % 5) for i in range(count)]))
    add(log, 1, size=4)
    if on_disk:
        fill_ring(log)
    found = log.reader().read(1, 0, 10**6)
    assert [record.data for record in found] == [data_of(1, i, i % 5) for i in range(count)] + [data_of(1, count, 4)]
    assert offsets(found) == list(range(count + 1))


# ---------------------------------------------------------------------------------------------- where it comes from


def test_old_records_come_from_the_segments(log: LogMaker) -> None:
    for _ in range(400):
        add(log, 1, 3)
        add(log, 2)
    assert log.position > 6 * log.segment_bytes
    reading = log.reader()
    check(reading.read(1, 0, 10**6), 1, 0, 1200)
    for start in (0, 1, 599, 1100, 1190, 1199):
        check(reading.read(1, start, 5), 1, start, min(5, 1200 - start))
    check(all_of(reading.cursor(2, 13), 50), 2, 13, 387)


def test_recent_records_need_no_file(log: LogMaker) -> None:
    for _ in range(100):
        add(log, 1)
    for path in log.directory.rglob("*.seg"):
        path.unlink()
    check(log.reader().read(1, 95), 1, 95, 5)
    with pytest.raises(CorruptionError, match="missing") as caught:
        log.reader().read(1, 0)
    assert caught.value.segment is not None


@pytest.mark.parametrize("another", [True, False], ids=["another log", "no log"])
def test_files_that_are_missing_with_their_log_are_no_damage(log: LogMaker, another: bool) -> None:
    for _ in range(100):
        add(log, 1)
    reading = log.reader()
    for path in (*log.directory.rglob("*.seg"), log.directory / "manifest"):
        path.unlink()
    if another:
        made = Manifest(uuid=bytes(16), segment_bytes=log.segment_bytes, window_bytes=log.ring_bytes)
        manifests.create(log_at(log.directory), made)
    with pytest.raises(NotRunning, match=r"no longer in .*: deleted or replaced"):
        reading.read(1, 0)
    check(reading.read(1, 95), 1, 95, 5)


def test_a_cursor_walks_on_without_a_search(log: LogMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[int] = []
    place = Cursor._place

    def counted(self: Cursor) -> None:
        places.append(self.offset)
        place(self)

    monkeypatch.setattr(Cursor, "_place", counted)
    reading = log.reader()
    tail = reading.cursor(1, log.next_offset[1])
    assert tail.next() == []
    for i in range(5):
        add(log, 2)
        add(log, 1)
        check(tail.next(), 1, i, 1)
    fill_ring(log)  # the cursor is overtaken: the segments have the same bytes at the same position
    add(log, 1)
    check(tail.next(), 1, 5, 1)
    add(log, 1)
    check(tail.next(), 1, 6, 1)
    assert places == [0]
    for start in range(7):
        check(reading.read(1, start, 1), 1, start, 1)
    assert places == [0, 0]


def test_an_overtaken_cursor_goes_from_segments_to_ring(log: LogMaker) -> None:
    cursor = log.reader().cursor(1, 0)
    seen = 0
    for _ in range(60):
        for _ in range(9):
            add(log, 1, 2, size=1500)
        check(cursor.next(5), 1, seen, 5, 1500)
        seen += 5
    check(all_of(cursor), 1, seen, log.next_offset[1] - seen, 1500)


def ring_of(reading: Reader) -> Ring:
    assert reading.log.ring is not None
    return reading.log.ring


class Overwriting:
    """A view of the ring during whose first copy the WAL process laps the reader."""

    def __init__(self, log: LogMaker, view: Any) -> None:
        self.log, self.view, self.laps = log, view, 0

    def __getitem__(self, place: slice) -> bytes:
        if self.laps == 0:
            self.laps = 1
            fill_ring(self.log)
            fill_ring(self.log)
        return bytes(self.view[place])


def test_what_is_overwritten_during_the_copy_is_read_again_from_disk(log: LogMaker) -> None:
    for _ in range(6):
        add(log, 1, 3, size=700)
    reading = log.reader()
    ring = ring_of(reading)
    ring.view = view = Overwriting(log, ring.view)
    check(reading.read(1, 0, 7, 10**4), 1, 0, 7, 700)
    assert view.laps == 1


def test_what_is_overwritten_under_a_tail_is_read_again_from_disk(log: LogMaker) -> None:
    add(log, 1)
    reading = log.reader()
    tail = reading.cursor(1, 0)
    check(tail.next(), 1, 0, 1)
    add(log, 1, 3, size=700)
    ring = ring_of(reading)
    ring.view = view = Overwriting(log, ring.view)
    check(tail.next(), 1, 1, 3, 700)
    assert view.laps == 1
    add(log, 1)
    check(tail.next(), 1, 4, 1)


def test_an_interrupted_tail_stands_where_it_stood(log: LogMaker) -> None:
    class Interrupting:
        def __getitem__(self, place: slice) -> bytes:
            raise KeyboardInterrupt

    add(log, 1)
    reading = log.reader()
    tail = reading.cursor(1, 0)
    check(tail.next(), 1, 0, 1)
    add(log, 1, 3)
    ring = ring_of(reading)
    view, ring.view = ring.view, Interrupting()
    with pytest.raises(KeyboardInterrupt):
        tail.next()
    ring.view = view
    check(tail.next(), 1, 1, 3)


def test_reading_while_the_ring_turns(log: LogMaker) -> None:
    total = 1500
    stop = threading.Event()

    def write() -> None:
        while log.next_offset[1] < total and not stop.is_set():
            add(log, 1, 4)
            add(log, 2)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        cursor = log.reader().cursor(1, 0)
        seen = 0
        while seen < total:
            records = cursor.next(50)
            check(records, 1, seen, len(records))
            seen += len(records)
    finally:
        stop.set()
        writer.join()


def test_blocks_larger_than_a_chunk(log: LogMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk, "CHUNK_BYTES", 2 * PAGE)
    for i in range(60):
        add(log, 1, 1, size=(5 if i % 3 else 1) * PAGE)
        add(log, 2, 2)
    reading = log.reader()
    found = reading.read(1, 0)
    assert [len(record.data) for record in found] == [(5 if i % 3 else 1) * PAGE for i in range(60)]
    check(reading.read(2, 0), 2, 0, 120)


# -------------------------------------------------------------------------------------------------------- the index


def test_indexes_are_dropped_and_made_again(log: LogMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_index, "INDEX_BYTES", 1)
    monkeypatch.setattr(log_index, "_FIRST_CAPACITY", 2)
    monkeypatch.setattr(log_index, "SPANS_MAX", 2)
    for _ in range(300):
        log.add(*((stream, [data_of(stream, log.next_offset[stream])]) for stream in range(5)))
    reading = log.reader()
    for start in random.Random(1).sample(range(300), 40):
        check(reading.read(start % 5, start, 3), start % 5, start, min(3, 300 - start))


def test_a_stream_that_most_segments_lack(log: LogMaker) -> None:
    rare = [5, 6]
    for i in range(200):
        if i in (20, 150):
            for stream in rare:
                add(log, stream, 2)
        add(log, 1, size=2 * PAGE)
    reading = log.reader()
    for stream in rare:
        for start in (0, 1, 2, 3):
            check(reading.read(stream, start), stream, start, 4 - start)


def test_the_index_of_the_live_segment_grows(log: LogMaker) -> None:
    reading = log.reader()
    for start in range(40):
        add(log, 1)
        fill_ring(log)
        check(reading.cursor(1, start).next(1), 1, start, 1)


# ---------------------------------------------------------------------------------------------------------- at random


@pytest.mark.parametrize("seed", range(6))
def test_any_log_reads_back_from_any_place(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(chunk, "CHUNK_BYTES", chance.choice([PAGE, 3 * PAGE, 1 << 20]))
    monkeypatch.setattr(readers, "CURSORS_KEPT", 2)
    log = LogMaker(tmp_path)
    model: list[list[bytes]] = [[] for _ in range(log.streams)]
    log.begin_epoch()
    reading = log.reader()
    try:
        for step in range(400):
            if step % 150 == 149:
                log.begin_epoch()
                reading = log.reader()
            batches = []
            for stream in chance.sample(range(4), chance.randint(1, 4)):
                data = [chance.randbytes(chance.choice([0, 1, 30, 500])) for _ in range(chance.randint(1, 4))]
                model[stream] += data
                batches.append((stream, data))
            log.add(*batches)
            check_somewhere(reading, model, chance)
    finally:
        log.close()


def check_somewhere(reading: Reader, model: list[list[bytes]], chance: random.Random) -> None:
    stream = chance.randrange(4)
    start = chance.randint(0, len(model[stream]))
    limit = chance.choice([1, 5, 2000])
    for _ in range(3):
        records = reading.read(stream, start, limit)
        expected = model[stream][start : start + limit]
        assert [record.data for record in records] == expected
        assert offsets(records) == list(range(start, start + len(expected)))
        start += len(records)
