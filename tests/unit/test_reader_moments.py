"""Where in a stream a moment is: by timestamps, which never go back."""

from __future__ import annotations

import bisect
import random

import pytest

from ringwal._native import lib
from ringwal.errors import CorruptionError, StreamDeleted
from ringwal.log import sidefile
from ringwal.log.directory import Directory
from ringwal.read import moments
from ringwal.read.reader import Reader
from ringwal.read.sides import Sides
from tests.support.log_maker import PAGE, LogMaker, add, data_of, fill_ring
from tests.support.log_sides import write_sides


class Moments:
    """Streams 1 and 2 over several segments, and what their records' times are."""

    def __init__(self, log: LogMaker, seed: int) -> None:
        chance = random.Random(seed)
        self.times: dict[int, list[int]] = {1: [], 2: [], 3: []}
        now = 1000
        for n in range(300):
            now += chance.choice((0, 0, 1, 5, 100))
            stream = 2 if n % 97 == 5 else 1
            count = chance.randint(1, 4)
            payload = [data_of(stream, log.next_offset[stream] + i, 4000) for i in range(count)]
            log.add((stream, payload), timestamp_ns=now)
            self.times[stream] += [now] * count
            if n == 150:
                log.begin_epoch()

    def check(self, reader: Reader, stream: int, start: int = 0) -> None:
        times = self.times[stream]
        moments = {0, 1 << 62, *times, *(time + 1 for time in times)}
        for moment in random.Random(1).sample(sorted(moments), min(60, len(moments))):
            expected = max(start, bisect.bisect_left(times, moment))
            assert reader.offset_at(stream, moment) == expected


@pytest.mark.parametrize("seed", range(6))
def test_side_files_say_it_by_a_few_records(log: LogMaker, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Moments(log, seed)
    log.begin_epoch()
    numbers = write_sides(log, but=[2, 3] if seed % 2 else [])
    reads: list[int] = []
    real = Reader.timestamp_of

    def timestamp_of(reader: Reader, stream: int, offset: int) -> int:
        reads.append(offset)
        return real(reader, stream, offset)

    monkeypatch.setattr(Reader, "timestamp_of", timestamp_of)
    reader = log.reader()
    for stream in (1, 2, 3):
        made.check(reader, stream)
    lib.rw_stream_of(log.control, 1).start_offset = 40
    made.check(log.reader(), 1, 40)
    if not seed % 2:
        reads.clear()
        made.check(reader, 1, 40)
        assert len(reads) < 60 * 6
    for number in numbers[::2]:  # and now they are those of another time
        path = log.segment_file(number).parent / sidefile.name_of(number)
        path.write_bytes(bytes(path.stat().st_size))
    for stream in (1, 2, 3):
        made.check(log.reader(), stream, 40 if stream == 1 else 0)


def test_a_side_file_that_lies_about_times_does_not_count(log: LogMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Moments(log, 1)
    log.begin_epoch()
    write_sides(log)
    within = moments._within
    for wrong in (-1, 1, 2, 7, 1000):  # beside the first record of the block that is the first one

        def lie(side: sidefile.SideFile, number: int, timestamp_ns: int, wrong: int = wrong) -> moments._Hint:
            hint = within(side, number, timestamp_ns)
            return hint._replace(offset=max(0, hint.offset + wrong))

        with monkeypatch.context() as patched:
            patched.setattr(moments, "_within", lie)
            made.check(log.reader(), 1)
    monkeypatch.setattr(moments, "_by_sides", lambda *_: moments._Hint(log.next_offset[1] - 5))
    made.check(log.reader(), 1)


@pytest.mark.parametrize("seed", range(4))
def test_headers_of_side_files_may_say_anything(log: LogMaker, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Moments(log, 1)
    log.begin_epoch()
    write_sides(log)
    chance, newest = random.Random(seed), made.times[1][-1]

    def times(sides: Sides, segment: int) -> sidefile.Times | None:
        return chance.choice((None, sidefile.Times(chance.randrange(newest), chance.randrange(2 * newest))))

    monkeypatch.setattr(Sides, "times", times)
    for stream in (1, 2, 3):
        made.check(log.reader(), stream)


def test_a_moment_is_found_by_headers_of_a_few_side_files(log: LogMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(2000):
        log.add((1, [data_of(1, n, 4000)]), timestamp_ns=1000 + 10 * n)
    log.begin_epoch()
    assert len(write_sides(log)) > 30
    opened: list[int] = []
    real = sidefile.SideFile.open

    def count(directory: Directory, uuid: bytes, segment_bytes: int, number: int) -> sidefile.SideFile | None:
        opened.append(number)
        return real(directory, uuid, segment_bytes, number)

    monkeypatch.setattr(sidefile.SideFile, "open", count)
    for n in range(0, 1800, 71):
        opened.clear()
        reader = log.reader()
        assert reader.offset_at(1, 1000 + 10 * n) == n
        assert [record.offset for record in reader.read(1, n, 1)] == [n]
        assert len(opened) <= 5  # of which those that are missing behind the newest one


@pytest.mark.parametrize("seed", range(3))
def test_the_first_record_that_is_not_older(log: LogMaker, seed: int) -> None:
    made = Moments(log, seed)
    for stream in (1, 2, 3):
        made.check(log.reader(), stream)
    lib.rw_stream_of(log.control, 1).start_offset = 40
    made.check(log.reader(), 1, 40)


def test_there_is_no_moment_in_a_stream_that_is_deleted(log: LogMaker) -> None:
    add(log, 1)
    fill_ring(log)
    words = lib.rw_stream_of(log.control, 1)
    words.deleted = words.number
    with pytest.raises(StreamDeleted):
        log.reader().offset_at(1, 0)


@pytest.mark.parametrize("sides", [True, False], ids=["sides", "no sides"])
@pytest.mark.parametrize("missing", [True, False], ids=["missing", "damaged"])
def test_damage_denies_the_moments_that_lie_in_it_and_no_others(log: LogMaker, sides: bool, missing: bool) -> None:
    made = Moments(log, 2)
    log.begin_epoch()
    numbers = write_sides(log) if sides else []
    segment = log.position // log.segment_bytes // 2
    if missing:
        log.segment_file(segment).unlink()
    else:
        for place in range(5):  # of a block each
            log.damage(segment * log.segment_bytes + 16 * PAGE + place * PAGE, 200)
    for number in numbers[1::2]:
        (log.segment_file(number).parent / sidefile.name_of(number)).unlink()
    times, reader = made.times[1], log.reader()
    denied: set[int] = set()
    for offset in range(len(times)):
        try:
            reader.read(1, offset, 1)
        except CorruptionError as damage:
            denied.update(range(offset, damage.next_offset or 0))
    assert denied
    for offset in range(0, len(times), 3):
        expected = bisect.bisect_left(times, times[offset])
        if denied & {expected, expected - 1}:  # the one behind may be of the same moment as those before
            with pytest.raises(CorruptionError) as raised:
                reader.offset_at(1, times[offset])
            first = raised.value.first_offset
            assert first is not None and set(range(first, expected)) <= denied
        else:
            assert reader.offset_at(1, times[offset]) == expected
    assert reader.offset_at(1, times[-1] + 1) == len(times)
