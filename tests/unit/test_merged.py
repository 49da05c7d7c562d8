"""Several streams in log order: what a merged cursor gives, of every log and up to every place."""

from __future__ import annotations

import random
from collections import deque
from pathlib import Path

import pytest

from ringwal._native import lib
from ringwal.errors import CorruptionError, OffsetTrimmed, StreamDeleted
from ringwal.read.merged import MergedCursor, Wanted
from ringwal.read.reader import Reader
from tests.support.log_maker import PAGE, LogMaker, add, fill_ring, handle_of

EVERYTHING = (1 << 63, 1 << 40)
Place = tuple[str, int]


def merged(reader: Reader, starts: dict[int, int]) -> MergedCursor:
    return reader.merged({f"s{stream}": Wanted(handle_of(stream), start) for stream, start in starts.items()})


def take(log: LogMaker, cursor: MergedCursor, most: int = EVERYTHING[0], size: int = EVERYTHING[1]) -> list[Place]:
    """All that is there up to the contiguous place, in as many steps as it takes."""
    found: list[Place] = []
    while records := cursor.next(most, size, lib.rw_log_disk_end(log.control)):
        assert len(records) <= most
        found += [(record.stream, record.offset) for record in records]
    return found


class History:
    """A log of random blocks, of which a run is released, and streams are confirmed beyond that as it happens."""

    def __init__(self, log: LogMaker, seed: int) -> None:
        self.log, self.chance = log, random.Random(seed)
        self.places: list[Place] = []  # what is released, in log order
        self._open: deque[tuple[int, list[Place], list[int]]] = deque()
        log.begin_epoch()

    def go_on(self) -> None:
        log, chance = self.log, self.chance
        frames, places = [], []
        base = list(log.next_offset)
        for stream in chance.choices(range(6), k=chance.randrange(1, 5)):
            count = chance.choice((1, 1, 1, 3, 40))
            frames.append((stream, [bytes(chance.choice((0, 10, 900))) for _ in range(count)]))
            places += [(f"s{stream}", base[stream] + n) for n in range(count)]
            base[stream] += count
        log.add(*frames, confirm=False)
        self._open.append((log.position, places, list(log.next_offset)))
        for stream in range(6):  # whatever of it was persisted first
            if chance.random() < 0.3:
                lib.rw_stream_of(log.control, stream).confirmed_offset = log.next_offset[stream]
        while self._open and (len(self._open) > 3 or chance.random() < 0.5):
            end, released, offsets = self._open.popleft()
            for stream in range(6):
                of = lib.rw_stream_of(log.control, stream)
                of.confirmed_offset = max(of.confirmed_offset, offsets[stream])
            log.control.released_end = end
            self.places += released


@pytest.mark.parametrize("seed", range(12))
def test_it_gives_what_is_confirmed_without_a_gap_in_log_order(tmp_path: Path, seed: int) -> None:
    log = LogMaker(tmp_path / "log", ring_bytes=1 << 18, segment_bytes=1 << 19)
    history, chance = History(log, seed), random.Random(seed)
    reader = log.reader()
    followed: list[tuple[MergedCursor, dict[int, int], list[Place], int, int]] = []
    for step in range(120):
        history.go_on()
        if step % 15 == 0:
            starts = {stream: chance.randrange(30) for stream in chance.sample(range(6), chance.randrange(1, 5))}
            followed.append((merged(reader, starts), starts, [], chance.choice((1, 7, 600)), chance.choice((1, 5000, 1 << 30))))
        if chance.random() < 0.5:
            for cursor, _, seen, most, size in followed:
                seen.extend(take(log, cursor, most, size))
    for cursor, starts, seen, most, size in followed:
        seen.extend(take(log, cursor, most, size))
        wanted = {f"s{stream}": start for stream, start in starts.items()}
        assert seen == [place for place in history.places if place[1] >= wanted.get(place[0], 1 << 60)]
    log.close()


def test_it_goes_through_epochs_and_over_what_others_have_lost(log: LogMaker) -> None:
    log.begin_epoch()
    expected: list[Place] = []
    for n in range(30):
        add(log, 1 + n % 2, size=PAGE)
        expected.append((f"s{1 + n % 2}", n // 2))
    lost = add(log, 3, size=PAGE)
    log.begin_epoch()
    for n in range(30, 40):
        add(log, 1 + n % 2, size=PAGE)
        expected.append((f"s{1 + n % 2}", n // 2))
    fill_ring(log)
    log.damage(lost, 200)
    cursor = merged(log.reader(), {1: 0, 2: 0})
    assert take(log, cursor, 3) == expected


def test_damage_denies_its_own_records_when_their_turn_comes(log: LogMaker) -> None:
    log.begin_epoch()
    add(log, 1)
    add(log, 2)
    lost = add(log, 1)
    add(log, 2)
    add(log, 1)
    fill_ring(log)
    log.damage(lost, 60)
    cursor = merged(log.reader(), {1: 0, 2: 0})
    found = [(record.stream, record.offset) for record in cursor.next(100, 1 << 20, log.position)]
    assert found == [("s1", 0), ("s2", 0)]
    for _ in range(2):
        with pytest.raises(CorruptionError) as damage:
            cursor.next(100, 1 << 20, log.position)
        assert (damage.value.stream, damage.value.first_offset, damage.value.next_offset) == ("s1", 1, 2)
    cursor.pass_over("s1", 2)
    assert take(log, cursor) == [("s2", 1), ("s1", 2)]


def test_trims_and_deletions_are_told_with_the_stream_and_leave_it_where_it_stood(log: LogMaker) -> None:
    log.begin_epoch()
    for stream in (1, 2, 1, 2):
        add(log, stream)
    cursor = merged(log.reader(), {1: 0, 2: 0})
    assert [record[0] for record in cursor.next(1, 1 << 20, log.position)] == [0]
    lib.rw_stream_of(log.control, 2).start_offset = 1
    with pytest.raises(OffsetTrimmed) as trimmed:
        cursor.next(100, 1 << 20, log.position)
    assert (trimmed.value.stream, trimmed.value.start_offset) == ("s2", 1)
    cursor.pass_over("s2", 1)
    assert cursor.offsets() == {"s1": 1, "s2": 1}
    assert take(log, cursor, 1) == [("s1", 1), ("s2", 1)]
    lib.rw_stream_of(log.control, 1).deleted = 1
    with pytest.raises(StreamDeleted, match="'s1'"):
        cursor.next(100, 1 << 20, log.position)


def test_a_stream_joins_where_the_walk_stands(log: LogMaker) -> None:
    log.begin_epoch()
    cursor = merged(log.reader(), {})
    add(log, 1)
    assert take(log, cursor) == []
    end = log.position
    add(log, 3)
    add(log, 1)
    cursor.add("s3", Wanted(handle_of(3), 0))
    assert cursor.next(100, 1 << 20, end) == []  # not before that is asked for
    assert take(log, cursor) == [("s3", 0)]
    log.next_offset[1] = 2
    cursor.add("s1", Wanted(handle_of(1), 2))
    add(log, 1)
    assert take(log, cursor) == [("s1", 2)]


def test_what_the_ring_loses_meanwhile_is_read_from_the_files(log: LogMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The WAL process overtakes a walk in the ring, between the copy and the proof of it."""
    log.begin_epoch()
    for n in range(8):
        add(log, 1 + n % 2, size=PAGE)
    cursor = merged(log.reader(), {1: 0, 2: 0})
    holds = cursor._in_ring.holds
    overtaken: list[int] = []

    def overtake(position: int) -> bool:
        if not overtaken:
            overtaken.append(position)
            fill_ring(log)
        return holds(position)

    monkeypatch.setattr(cursor._in_ring, "holds", overtake)
    assert take(log, cursor, 3) == [(f"s{1 + n % 2}", n // 2) for n in range(8)]
    assert overtaken


def test_a_walk_that_is_placed_stands_before_the_gap(log: LogMaker) -> None:
    """One whose streams have nothing yet is placed at the end of the log: before what is not confirmed, not behind."""
    log.begin_epoch()
    cursor = merged(log.reader(), {1: 0, 2: 0})
    add(log, 1, confirm=False)
    add(log, 2, confirm=False)
    lib.rw_stream_of(log.control, 2).confirmed_offset = 1  # its block came first
    assert take(log, cursor) == []
    log.confirm()
    assert take(log, cursor) == [("s1", 0), ("s2", 0)]


def test_what_is_confirmed_between_the_look_at_the_end_and_the_walk_is_not_passed_over(log: LogMaker) -> None:
    """A stream that is awaited has its first records behind the end that was looked up, and before the end as it is by then."""
    log.begin_epoch()
    add(log, 2)
    end = lib.rw_log_disk_end(log.control)
    cursor = merged(log.reader(), {2: 1})
    add(log, 1)
    assert cursor.next(100, 1 << 20, end) == []
    cursor.add("s1", Wanted(handle_of(1), 0))
    assert take(log, cursor) == [("s1", 0)]
