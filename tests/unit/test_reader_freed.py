"""Readers hold nothing: a segment may go, or be used again, at any moment. Who reads gets the right record, or is
told `OffsetTrimmed`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringwal._native import lib
from ringwal.errors import CorruptionError, OffsetTrimmed, StreamDeleted
from ringwal.log import checkpoint_file
from ringwal.log import manifest as manifests
from ringwal.log.checkpoint import Checkpoint, EpochRow, StreamRow, pack
from tests.support.log_maker import LogMaker, add, check, fill_ring
from tests.support.log_place import log_at


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LogMaker]:
    made = LogMaker(tmp_path)
    yield made
    made.close()


def alone(log: LogMaker, stream: int) -> int:
    """The stream's next record, in a segment without another one of it, and not in the ring. Returns the segment."""
    segment = add(log, stream) // log.segment_bytes
    while log.position // log.segment_bytes == segment:
        add(log, 9, size=30_000)
    fill_ring(log)
    return segment


def segments_of(log: LogMaker, stream: int) -> list[int]:
    """Records 0, 1 and 2 of the stream, each in a segment of its own, none in the ring."""
    return [alone(log, stream) for _ in range(3)]


def free(log: LogMaker, end: int, **starts: int) -> None:
    """As the engine does it: streams begin later, readers are told, files go."""
    for name, offset in starts.items():
        lib.rw_stream_of(log.control, int(name[1:])).start_offset = offset
    log.control.first_segment = end
    for segment in range(end):
        log.segment_file(segment).unlink(missing_ok=True)


def another_engine_frees(log: LogMaker, end: int, starts: dict[int, int]) -> None:
    """One that came after the engine of this memory, so that only the files say so. `starts` has the streams that are left."""
    manifest = manifests.load(log_at(log.directory))
    old = checkpoint_file.load(log_at(log.directory), manifest)
    rows = [StreamRow(stream, f"s{stream}", log.next_offset[stream], start, 0, 0) for stream, start in sorted(starts.items())]
    made = Checkpoint(
        uuid=old.uuid, epoch=old.epoch + 1, position=log.position + 4096, block_number=1, timestamp_ns=0,
        next_number=16, streams=pack(rows),
        epochs=(*old.epochs[:-1], old.epochs[-1]._replace(end=log.position), EpochRow(old.epoch + 1, log.position, 0)),
    )  # fmt: skip
    named = checkpoint_file.put(log_at(log.directory), manifest, made, log.streams)
    named = dataclasses.replace(named, claimed=made.epoch, epoch=made.epoch, epoch_begin=log.position)
    named_end = log.position // log.segment_bytes + 1
    manifests.store(log_at(log.directory), dataclasses.replace(named, first_segment=end, named_end=named_end))
    for segment in range(end):
        log.segment_file(segment).unlink()


def test_what_is_left_is_found_without_what_is_freed(log: LogMaker) -> None:
    log.begin_epoch()
    places = segments_of(log, 3)
    free(log, places[1], s3=1)
    reader = log.reader()
    check(reader.read(3, 1), 3, 1, 2)
    with pytest.raises(OffsetTrimmed) as caught:
        reader.read(3, 0)
    assert caught.value.start_offset == 1


def test_what_is_left_of_an_epoch_is_found(log: LogMaker) -> None:
    log.begin_epoch()
    places = segments_of(log, 3)
    log.begin_epoch()
    fill_ring(log)
    free(log, places[2], s3=2)
    check(log.reader().read(3, 2), 3, 2, 1)


def test_a_cursor_goes_on_from_a_place_that_is_freed(log: LogMaker) -> None:
    log.begin_epoch()
    reader, places = log.reader(), [alone(log, 3)]
    cursor = reader.cursor(3, 0)
    check(cursor.next(), 3, 0, 1)
    places += alone(log, 3), alone(log, 3)
    free(log, places[1], s3=1)
    check(cursor.next(), 3, 1, 2)


def test_a_cursor_below_the_start_says_so(log: LogMaker) -> None:
    log.begin_epoch()
    places = segments_of(log, 3)
    cursor = log.reader().cursor(3, 0)
    check(cursor.next(1), 3, 0, 1)
    free(log, places[2], s3=2)
    with pytest.raises(OffsetTrimmed):
        cursor.next()
    assert cursor.offset == 1


@pytest.mark.parametrize("used_again", [False, True])
@pytest.mark.parametrize("standing", [False, True])
def test_a_segment_that_goes_while_it_is_read_is_no_damage(
    log: LogMaker, monkeypatch: pytest.MonkeyPatch, standing: bool, used_again: bool
) -> None:
    """Between the look at the start offset and the read of the file."""
    log.begin_epoch()
    reader, places = log.reader(), [alone(log, 3)]
    cursor = reader.cursor(3, 0)
    if standing:  # else the search meets it
        check(cursor.next(), 3, 0, 1)
    places += alone(log, 3), alone(log, 3)
    cursor._disk = None
    real, waits = reader.segments.files.read, [True]

    def read(position: int, into: memoryview, **options: Any) -> None:
        if waits and position // log.segment_bytes == places[0]:
            waits.clear()
            if used_again:  # it was opened before it was renamed, and is read when it has been written again
                log.write_file(position, log.segment_file(places[2]).read_bytes()[4096 : 4096 + len(into)])
                real(position, into, **options)
                free(log, places[1], s3=1)
                return
            free(log, places[1], s3=1)
        real(position, into, **options)

    monkeypatch.setattr(reader.segments.files, "read", read)
    if standing:
        check(cursor.next(), 3, 1, 2)
    else:
        with pytest.raises(OffsetTrimmed):
            cursor.next()
    assert not waits, "the segment was not read"


def test_memory_of_an_engine_that_has_ended_is_not_believed_against_the_files(log: LogMaker) -> None:
    log.begin_epoch()
    places = segments_of(log, 3)
    another_engine_frees(log, places[2], {3: 2, 9: 0})
    reader = log.reader()
    with pytest.raises(OffsetTrimmed) as caught:
        reader.read(3, 0)
    assert caught.value.start_offset == 2
    with pytest.raises(OffsetTrimmed):
        reader.read(3, 1)
    check(reader.read(3, 2), 3, 2, 1)


def test_a_stream_that_another_engine_has_deleted_is_no_more(log: LogMaker) -> None:
    log.begin_epoch()
    places = segments_of(log, 3)
    another_engine_frees(log, places[1], {9: 0})
    with pytest.raises(StreamDeleted):
        log.reader().read(3, 0)


def test_a_file_that_is_missing_and_was_not_freed_is_damage(log: LogMaker) -> None:
    log.begin_epoch()
    places = segments_of(log, 3)
    free(log, places[1], s3=1)
    log.segment_file(places[1]).unlink()
    with pytest.raises(CorruptionError, match="is missing"):
        log.reader().read(3, 1)
    check(log.reader().read(3, 2), 3, 2, 1)
