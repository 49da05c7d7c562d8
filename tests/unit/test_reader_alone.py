"""Reading without any engine's memory: bounds from a table, everything from the files."""

from __future__ import annotations

import pytest

from ringwal.errors import CorruptionError, OffsetTrimmed, StreamDeleted
from ringwal.log import checkpoint_file
from ringwal.log import manifest as manifests
from ringwal.log.checkpoint import EpochRow
from ringwal.read.bounds import StreamBounds, TableBounds
from ringwal.read.reader import Reader
from tests.support.log_maker import UUID, LogMaker, add, check
from tests.support.log_place import log_at


def reader_of(log: LogMaker, streams: dict[int, StreamBounds], *, end: int | None = None) -> Reader:
    """Of what the files have below log position `end`."""
    known = checkpoint_file.load(log_at(log.directory), manifests.load(log_at(log.directory))).epochs
    epochs = [*known[:-1], EpochRow(known[-1].epoch, known[-1].begin, log.position if end is None else end)]
    bounds = TableBounds(uuid=UUID, segment_bytes=log.segment_bytes, epochs=epochs, streams=streams)
    return Reader(log_at(log.directory), bounds)


def test_records_of_every_epoch_are_read_from_the_files(log: LogMaker) -> None:
    for _ in range(3):
        for _ in range(60):
            add(log, 1, 2, size=1500)
        log.begin_epoch()
    add(log, 1, 5)
    reader = reader_of(log, {1: StreamBounds(0, log.next_offset[1]), 3: StreamBounds(0, 0)})
    check(reader.read(1, 0, 360), 1, 0, 360, 1500)
    check(reader.read(1, 360), 1, 360, 5)
    assert reader.read(3, 0) == []
    cursor = reader.cursor(1, 355)
    check(cursor.next(5), 1, 355, 5, 1500)
    check(cursor.next(), 1, 360, 5)
    assert cursor.next() == []


def test_what_the_table_does_not_have_is_not_there(log: LogMaker) -> None:
    for _ in range(20):
        add(log, 1, 2)
    reader = reader_of(log, {1: StreamBounds(4, 30)})
    check(reader.read(1, 4), 1, 4, 26)
    with pytest.raises(OffsetTrimmed) as caught:
        reader.read(1, 3)
    assert caught.value.start_offset == 4
    with pytest.raises(StreamDeleted):
        reader.read(2, 0)


def test_what_lies_behind_the_end_is_not_believed(log: LogMaker) -> None:
    add(log, 1, 2)
    end = log.position
    add(log, 1, 2)
    reader = reader_of(log, {1: StreamBounds(0, 4)}, end=end)
    check(reader.read(1, 0), 1, 0, 2)
    with pytest.raises(CorruptionError):
        reader.read(1, 2)


def test_what_lies_between_two_parts_of_an_epoch_is_passed_over(log: LogMaker) -> None:
    add(log, 1, 2)
    hole = log.position
    add(log, 2, 2)
    behind = log.position
    add(log, 1, 2)
    log.damage(hole, 0)
    epochs = [EpochRow(log.epoch, 0, hole), EpochRow(log.epoch, behind, log.position)]
    bounds = TableBounds(
        uuid=UUID, segment_bytes=log.segment_bytes, epochs=epochs, streams={1: StreamBounds(0, 4), 2: StreamBounds(0, 2)}
    )
    reader = Reader(log_at(log.directory), bounds)
    check(reader.read(1, 0), 1, 0, 4)
    with pytest.raises(CorruptionError):
        reader.read(2, 0)
