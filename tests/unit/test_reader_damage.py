"""Reading a log with a past: never beyond a cut, and damage named with its place."""

from __future__ import annotations

import os

import pytest

from ringwal._native import ffi
from ringwal.errors import CorruptionError
from tests.support.log_maker import PAGE, Frame, LogMaker, add, block_bytes, check, data_of, fill_ring, offsets
from tests.support.log_sides import write_sides

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


def test_damage_to_the_first_block_of_an_epoch_takes_no_records(log: LogMaker) -> None:
    three_epochs(log)
    begin = log.control.epoch_begin
    fill_ring(log)
    log.damage(begin, 100)
    check(log.reader().read(1, 120), 1, 120, 3, 900)


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


@pytest.mark.parametrize("sides", [True, False])
@pytest.mark.parametrize("instead", ["nothing", "damage", "directory", "fifo"])
def test_a_segment_that_is_gone_or_damaged_denies_its_own_records_only(log: LogMaker, instead: str, sides: bool) -> None:
    missing = instead != "damage"
    places: dict[int, list[int]] = {1: [], 2: []}
    while log.position < 9 * log.segment_bytes:
        places[1].append(add(log, 1, size=5000))
        if len(places[1]) % 40 == 0:
            places[2].append(add(log, 2))
    fill_ring(log)
    if sides:
        write_sides(log)
    for segment in (2, 4, 5):
        if missing:
            log.segment_file(segment).unlink()
        else:
            log.write_file(segment * log.segment_bytes + PAGE, bytes(30 * PAGE))
        if instead == "directory":
            log.segment_file(segment).mkdir()
        elif instead == "fifo":
            os.mkfifo(log.segment_file(segment))
    for stream, size in ((1, 5000), (2, None)):
        gone = [
            offset
            for offset, place in enumerate(places[stream])
            if place // log.segment_bytes in (2, 4, 5) and (missing or place % log.segment_bytes < 31 * PAGE)
        ]
        assert gone
        for offset in range(log.next_offset[stream]):
            cursor = log.reader().cursor(stream, offset)
            if offset not in gone:
                check(cursor.next(1), stream, offset, 1, size)
                continue
            with pytest.raises(CorruptionError, match=rf"offset {offset}|records? {offset} .*stream 's{stream}'") as caught:
                cursor.next(1)
            error, behind = caught.value, min(set(range(offset, log.next_offset[stream] + 1)) - set(gone))
            assert (error.stream, error.first_offset, error.next_offset) == (f"s{stream}", offset, behind)
            # Of two in a row, nobody can say which has it.
            assert error.segment in ({2} if places[stream][offset] // log.segment_bytes == 2 else {4, 5})
            check(log.reader().read(stream, behind, 1), stream, behind, 1, size)


def test_everything_up_to_the_end_may_be_gone(log: LogMaker) -> None:
    last = [add(log, 1, size=50) for _ in range(20)][-1]
    fill_ring(log)
    log.damage(last, 0)
    with pytest.raises(CorruptionError) as caught:
        log.reader().read(1, 19)
    assert (caught.value.first_offset, caught.value.next_offset) == (19, 20)
    add(log, 1, size=50)
    with pytest.raises(CorruptionError) as caught:
        log.reader().read(1, 19)
    assert (caught.value.first_offset, caught.value.next_offset) == (19, 20)
    check(log.reader().read(1, 20), 1, 20, 1, 50)


def test_damage_in_the_ring_says_where_it_goes_on(log: LogMaker) -> None:
    places = [add(log, 1, 2, size=50) for _ in range(6)]
    for place in places[2:4]:
        log.ring[place % log.ring_bytes + HEADERS] ^= 1
        log.damage(place, 0)
    with pytest.raises(CorruptionError) as caught:
        log.reader().read(1, 4)
    assert (caught.value.first_offset, caught.value.next_offset) == (4, 8)


def test_damage_that_has_nothing_of_the_stream_does_not_end_its_reading(log: LogMaker) -> None:
    for _ in range(10):
        add(log, 1, size=50)
        log.damage(add(log, 2, size=50), 40)
    fill_ring(log)
    check(log.reader().read(1, 0), 1, 0, 10, 50)
    check(log.reader().cursor(1, 0).next(3), 1, 0, 3, 50)
