"""Reading a log with a past: never beyond a cut, and damage named with its place."""

from __future__ import annotations

import contextlib

import pytest

from ringwal._native import ffi
from ringwal.errors import CorruptionError
from tests.support.log_maker import PAGE, Frame, LogMaker, add, block_bytes, check, data_of, fill_ring, offsets

HEADERS = ffi.sizeof("rw_block") + ffi.sizeof("rw_frame")


# -------------------------------------------------------------------------------------------------- epochs and cuts


def three_epochs(log: LogMaker) -> dict[str, int]:
    """Epoch 1 ends with a hole and records beyond it; epoch 2 carries some of them over; epoch 3 is live.

    Stream 1 has records in all, stream 2 lost what lay behind the hole in its own run, stream 3 was carried over.
    """
    for _ in range(30):
        add(log, 1, 2, size=900)
    add(log, 2, 4)
    add(log, 3, 2)
    cut = log.position
    zombie = {2: log.next_offset[2], 1: log.next_offset[1]}
    hole = log.add((2, [b"lost"]))
    log.write_file(hole, bytes(PAGE))
    behind = log.add((2, [b"zombie"]), (3, [data_of(3, 2), data_of(3, 3)]), (1, [b"zombie"]))
    dead = -(-log.position // log.segment_bytes)
    for segment in (dead, dead + 1):  # valid blocks of epoch 1 in segments that epoch 2 does not use
        at = segment * log.segment_bytes
        log.write_file(at, block_bytes([Frame(1, zombie[1], [b"zombie"])], epoch=1, position=at))
    log.next_offset[2], log.next_offset[1] = zombie[2], zombie[1]
    log.begin_epoch(previous_end=cut, segment=dead + 1, carried=[Frame(3, 2, [data_of(3, 2), data_of(3, 3)])])
    for _ in range(30):
        add(log, 1, 2, size=900)
        add(log, 2)
    add(log, 3)
    log.begin_epoch()
    for stream in (1, 2, 3):
        add(log, stream, 3, size=900 if stream == 1 else None)
    return {"cut": cut, "hole": hole, "behind": behind, "dead": dead}


def test_zombies_beyond_a_cut_are_never_returned(log: LogMaker) -> None:
    three_epochs(log)
    for reading in (log.reader(), log.reader()):
        check(reading.read(1, 0), 1, 0, 123, 900)
        check(reading.read(2, 0), 2, 0, 37)
        check(reading.read(3, 0), 3, 0, 8)
        for stream, size in ((1, 900), (2, None), (3, None)):
            for start in range(log.next_offset[stream]):
                check(log.reader().cursor(stream, start).next(2), stream, start,
                      min(2, log.next_offset[stream] - start), size)  # fmt: skip


def test_a_cut_at_the_end_of_a_segment(log: LogMaker) -> None:
    while log.position < log.segment_bytes:
        add(log, 1, size=1 + 4 * PAGE)
    last = log.next_offset[1] - 1
    for stream in range(log.streams):
        log.next_offset[stream] = 0
    log.next_offset[1] = last  # the record that went into the second segment is beyond the cut
    log.begin_epoch(previous_end=log.segment_bytes, segment=2)
    add(log, 1, 3, size=10)
    found = log.reader().read(1, 0)
    assert offsets(found) == list(range(last + 3))
    assert [len(record.data) for record in found] == [1 + 4 * PAGE] * last + [10] * 3


def test_a_damaged_checkpoint_is_named_and_denies_older_epochs_only(log: LogMaker) -> None:
    three_epochs(log)
    for path in log.directory.glob("checkpoint-*"):
        path.write_bytes(bytes(8192))
    with pytest.raises(CorruptionError, match=r"checkpoint-0.*damaged"):
        log.reader().read(1, 0)
    check(log.reader().read(1, 120), 1, 120, 3, 900)


def test_damage_to_the_first_block_of_an_epoch_is_named(log: LogMaker) -> None:
    three_epochs(log)
    begin = log.control.epoch_begin
    fill_ring(log)
    log.damage(begin, 100)
    with pytest.raises(CorruptionError) as caught:
        log.reader().read(1, 120)
    assert (caught.value.segment, caught.value.position) == (begin // log.segment_bytes, begin)


# ------------------------------------------------------------------------------------------------------- corruption


@pytest.mark.parametrize("byte", [0, 9, 33, 60, ffi.sizeof("rw_block") + 3, ffi.sizeof("rw_block") + 20, HEADERS + 5])
def test_damage_on_disk_is_named_and_what_lies_before_is_returned(log: LogMaker, byte: int) -> None:
    places = [add(log, 1, 2, size=50) for _ in range(20)]
    fill_ring(log)
    log.damage(places[11], byte)
    reading = log.reader()
    check(reading.read(1, 0), 1, 0, 22, 50)
    for each in (reading, log.reader()):
        with pytest.raises(CorruptionError) as caught:
            each.read(1, 22)
        assert (caught.value.segment, caught.value.position) == (0, places[11])
    log.damage(places[11], byte)  # flips it back: nothing about the damage is remembered by a new reader
    check(log.reader().read(1, 22), 1, 22, 18, 50)


def test_a_payload_damaged_elsewhere_does_not_hide_the_rest(log: LogMaker) -> None:
    places = [add(log, 1, size=50) for _ in range(20)]
    fill_ring(log)
    log.damage(places[4], HEADERS + 5)
    check(log.reader().read(1, 5), 1, 5, 15, 50)


def test_a_short_file_is_named(log: LogMaker) -> None:
    place = [add(log, 1, size=50) for _ in range(20)][7]
    fill_ring(log)
    with log.segment_file(0).open("r+b") as file:
        file.truncate(PAGE + place)
    with pytest.raises(CorruptionError, match="too short") as caught:
        log.reader().read(1, 0)
    assert (caught.value.segment, caught.value.position) == (0, place)


def test_damage_in_the_ring_is_named(log: LogMaker) -> None:
    add(log, 1)
    place = add(log, 1, size=50)
    log.ring[place % log.ring_bytes + HEADERS] ^= 1
    with pytest.raises(CorruptionError) as caught:
        log.reader().read(1, 1)
    assert caught.value.position == place


def test_a_batch_begun_in_the_ring_is_checked_again_on_disk(log: LogMaker) -> None:
    place = add(log, 1, 5, size=50)
    cursor = log.reader().cursor(1, 0)
    check(cursor.next(2), 1, 0, 2, 50)
    fill_ring(log)
    log.damage(place, HEADERS + 5 * 4 + 4 * 50)
    with pytest.raises(CorruptionError) as caught:
        cursor.next()
    assert caught.value.position == place


@pytest.mark.parametrize("missing", [True, False])
def test_a_segment_that_is_gone_or_damaged_denies_its_own_records_only(log: LogMaker, missing: bool) -> None:
    places: list[int] = []
    while log.position < 9 * log.segment_bytes:
        places.append(add(log, 1, size=5000))
        if len(places) % 60 == 0:
            add(log, 2)
    rare = log.next_offset[2]
    fill_ring(log)
    for segment in (2, 4, 5):
        if missing:
            log.segment_file(segment).unlink()
        else:
            log.write_file(segment * log.segment_bytes, bytes(PAGE))
    gone = [offset for offset, place in enumerate(places) if place // log.segment_bytes in (2, 4, 5)]
    for offset, place in enumerate(places):
        reading = log.reader().cursor(1, offset)
        if offset in gone:
            with pytest.raises(CorruptionError) as caught:
                reading.next(1)
            # Of two in a row, nobody can say which has it.
            assert caught.value.segment in ({2} if place // log.segment_bytes == 2 else {4, 5})
        else:
            check(reading.next(1), 1, offset, 1, 5000)
    found = 0
    for offset in range(rare):
        with contextlib.suppress(CorruptionError):
            check(log.reader().cursor(2, offset).next(1), 2, offset, 1)
            found += 1
    assert 0 < found < rare
