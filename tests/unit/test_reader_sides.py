"""Reading by side files: the same records, of which much less has to be read; and without them whatever is wrong with them."""

from __future__ import annotations

import contextlib
import random
import shutil
from pathlib import Path

import pytest

from ringwal.log import checkpoint_file, sidefile
from ringwal.log.segment import HEADER_BYTES
from ringwal.log.verify import verify
from ringwal.read import chunk, sides
from ringwal.read.lines import Lines
from ringwal.read.segments import SegmentFiles
from tests.faults import decode_side
from tests.support.log_maker import PAGE, LogMaker, add, check, data_of, fill_ring
from tests.support.log_place import log_at
from tests.support.log_sides import write_sides

STREAMS = range(1, 8)


class Reads:
    """What is read of segment files, in bytes, and of which."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes, self.calls, self.segments = 0, 0, set[int]()
        real = SegmentFiles.read

        def read(files: SegmentFiles, position: int, into: memoryview, **options: bool) -> None:
            self.bytes, self.calls = self.bytes + len(into), self.calls + 1
            self.segments.add(files.segment_of(position))
            real(files, position, into, **options)

        monkeypatch.setattr(SegmentFiles, "read", read)

    def clear(self) -> None:
        self.bytes = 0
        self.segments.clear()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


@pytest.fixture
def quiet(log: LogMaker) -> LogMaker:
    """Stream 3 has a record at the begin, one in the middle and one before the end of a log of some thirty segments."""
    for part in range(4):
        add(log, 3, size=40)
        while log.position // log.segment_bytes < 8 * (part + 1):
            add(log, 1, size=3000)
            add(log, 2, 3, size=70)
        if part == 1:
            log.begin_epoch()
    fill_ring(log)
    return log


def test_a_quiet_stream_is_found_by_reading_its_blocks(quiet: LogMaker, reads: Reads) -> None:
    without = quiet.reader().read(3, 0)
    assert reads.bytes > 20 * quiet.segment_bytes
    write_sides(quiet)
    for start in range(4):
        reads.clear()
        check(quiet.reader().read(3, start, 1), 3, start, 1, 40)
        assert reads.bytes <= 2 * PAGE
    reads.clear()
    assert quiet.reader().read(3, 0) == without
    assert reads.bytes <= 8 * chunk.FIRST_BYTES


def test_the_checkpoint_is_not_read(quiet: LogMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sides(quiet)
    monkeypatch.setattr(checkpoint_file, "look", lambda *_: pytest.fail("it was read"))
    check(quiet.reader().read(3, 0), 3, 0, 4, 40)
    check(quiet.reader().read(1, 0, 500), 1, 0, 500, 3000)


def test_a_busy_stream_is_read_once_in_large_pieces(quiet: LogMaker, reads: Reads) -> None:
    write_sides(quiet)
    count = quiet.next_offset[1]
    check(quiet.reader().cursor(1, 0).next(count), 1, 0, count, 3000)
    assert reads.bytes <= 1.2 * quiet.position
    assert reads.calls <= 2 * (len(reads.segments) + 2)


def test_segments_without_a_side_file_are_gone_through(quiet: LogMaker, reads: Reads) -> None:
    without = [16, 17, 18, 31]
    assert not set(write_sides(quiet, but=without)) & set(without)
    reader = quiet.reader()
    check(reader.read(3, 2, 1), 3, 2, 1, 40)  # in segment 16
    assert reads.segments <= {15, 16, 17, 18}
    for start in range(4):
        check(quiet.reader().read(3, start), 3, start, 4 - start, 40)


def test_few_side_files_are_open_at_a_time(quiet: LogMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sides, "KEPT", 2)
    write_sides(quiet)
    reader = quiet.reader()
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    for start in (3, 0, 2, 1, 0):
        check(reader.read(3, start, 1), 3, start, 1, 40)
        assert len(list(Path("/proc/self/fd").iterdir())) <= open_before + 2


def damaged(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    match chance.randrange(5):
        case 0:
            del data[chance.randrange(len(data)) :]
        case 1:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        case 2:
            begin = chance.randrange(0, len(data), PAGE)
            data[begin : begin + PAGE] = bytes(PAGE)
        case 3:
            data[:] = bytes(len(data))
        case 4:
            return path.unlink()
    path.write_bytes(data)
    return None


def random_log(log: LogMaker, chance: random.Random) -> None:
    for _ in range(chance.randrange(1, 4)):
        for _ in range(chance.randrange(100, 400)):
            chosen = chance.choices(STREAMS, [40, 40, 20, 5, 1, 1, 1], k=chance.randrange(1, 4))
            batches = [
                (stream, [data_of(stream, log.next_offset[stream] + i) for i in range(chance.randrange(1, 5))])
                for stream in set(chosen)
            ]
            log.add(*batches)
            if chance.random() < 0.5:
                add(log, 9, size=chance.choice((10, 5000, 40_000)))
        log.begin_epoch(segment=log.position // log.segment_bytes + 1 if chance.random() < 0.3 else None)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_side_files_there_are_the_records_are_the_same(
    log: LogMaker, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(chunk, "CHUNK_BYTES", chance.choice((PAGE, 3 * PAGE, 1 << 20)))
    monkeypatch.setattr(chunk, "FIRST_BYTES", chance.choice((PAGE, 2 * PAGE)))
    random_log(log, chance)
    numbers = write_sides(log)
    folder = log.segment_file(0).parent
    for number in chance.sample(numbers, chance.randrange(len(numbers) + 1) if seed % 3 else 0):
        damaged(folder / sidefile.name_of(number), chance)
    for _ in range(chance.randrange(200)):
        add(log, chance.choice(STREAMS), chance.randrange(1, 3))
    reader = log.reader()
    for _ in range(150):
        stream = chance.choice([stream for stream in STREAMS if log.next_offset[stream]])
        start = chance.randrange(log.next_offset[stream])
        count = chance.choice((1, 1, 5, 10_000))
        check(reader.read(stream, start, count), stream, start, min(count, log.next_offset[stream] - start))
    for stream in STREAMS:
        lines, cursor = Lines("lines"), log.reader().cursor(stream, 0)
        lines.begin(1 << 30)
        cursor.fill(lines, 1 << 30)
        assert bytes(lines.text()) == b"".join(data_of(stream, i) + b"\n" for i in range(log.next_offset[stream]))


@pytest.mark.parametrize("seed", range(4))
def test_side_files_of_another_history_of_the_log_lead_nowhere(tmp_path: Path, log: LogMaker, seed: int) -> None:
    """A log was copied and went on twice: uuid and numbers are the same."""
    chance = random.Random(seed)
    (tmp_path / "other").mkdir()
    with contextlib.closing(LogMaker(tmp_path / "other")) as other:
        for each in (log, other):
            each.begin_epoch()
            random_log(each, chance)
            numbers = write_sides(each)
        for number in chance.sample(numbers[:-1], max(1, len(numbers) // (seed + 1) - 1)):
            name = sidefile.name_of(number)
            shutil.copy(other.segment_file(number).parent / name, log.segment_file(number).parent / name)
    for stream in STREAMS:
        for start in range(0, log.next_offset[stream], 7):
            check(log.reader().read(stream, start, 1), stream, start, 1)


def test_a_cut_is_one_by_side_files_too(log: LogMaker) -> None:
    """Records that were dropped, and others that were carried over, lie behind it and look like records."""
    for _ in range(40):
        add(log, 1, 2, size=3000)
    cut, kept = log.position, list(log.next_offset)
    for _ in range(3):
        log.add((1, [b"dropped"]), (2, [b"dropped", b"too"]))
    log.next_offset = kept
    log.begin_epoch(previous_end=cut)
    for _ in range(200):
        add(log, 1, 2, size=3000)
        add(log, 2)
    fill_ring(log)
    write_sides(log)
    for stream, size in ((1, 3000), (2, None)):
        count = log.next_offset[stream]
        check(log.reader().read(stream, 0, count), stream, 0, count, size)
        for start in range(count):
            check(log.reader().read(stream, start, 1), stream, start, 1, size)


def test_a_side_file_that_lies_costs_time_only(quiet: LogMaker) -> None:
    """Right by all its checksums, and of another segment: no record is lost or changed by it."""
    numbers = write_sides(quiet)
    other = LogMaker(quiet.directory.parent / "other", segment_bytes=quiet.segment_bytes)
    try:
        other.begin_epoch()
        while other.position // other.segment_bytes <= numbers[-1] + 1:
            add(other, 9, size=30_000)
        write_sides(other)
        for number in (0, 8, 9, 16, 24):
            theirs = other.segment_file(number).parent / sidefile.name_of(number)
            (quiet.segment_file(number).parent / theirs.name).write_bytes(theirs.read_bytes())
    finally:
        other.close()
    for start in range(4):
        check(quiet.reader().read(3, start, 1), 3, start, 1, 40)
    check(quiet.reader().read(3, 0), 3, 0, 4, 40)


@pytest.mark.parametrize("deep", [False, True])
def test_a_side_file_of_another_history_of_the_log_costs_time_only(log: LogMaker, deep: bool) -> None:
    """A copy of a log goes on with its uuid: uuid and number of a segment do not say which of the two it is of."""
    other = LogMaker(log.directory / "other", segment_bytes=log.segment_bytes)
    try:
        for each, size in ((log, 5000), (other, 900)):
            if each is other:
                each.begin_epoch()
            while each.position < 9 * each.segment_bytes:
                add(each, 1, 2, size=size)
                if 3 <= each.position // each.segment_bytes < 5:
                    add(each, 3, size=size)
            fill_ring(each)
        for number in write_sides(other):
            shutil.copy(other.segment_file(number).with_suffix(".side"), log.segment_file(number).with_suffix(".side"))
    finally:
        other.close()
    log.checkpoint()
    for stream in (1, 2, 3):
        for start in range(0, log.next_offset[stream], 7):
            check(log.reader().read(stream, start, 1), stream, start, 1, 5000)
        check(log.reader().read(stream, 0, 10**6), stream, 0, log.next_offset[stream], 5000)
    found = [place for place in verify(log_at(log.directory), deep=deep).places if place.file.endswith(".side")]
    assert found and all("remove it" in place.what and not place.losses for place in found)


@pytest.mark.parametrize("by", [1, 3, -1])
def test_side_files_that_lead_to_other_blocks_cost_time_only(log: LogMaker, by: int) -> None:
    """What they say is right by their checksums, and wrong."""
    chance = random.Random(by)
    random_log(log, chance)
    for number in write_sides(log):
        side = log.segment_file(number).parent / sidefile.name_of(number)
        side.write_bytes(decode_side.shifted(side.read_bytes(), by))
    reader = log.reader()
    for _ in range(150):
        stream = chance.choice([stream for stream in STREAMS if log.next_offset[stream]])
        start = chance.randrange(log.next_offset[stream])
        check(reader.read(stream, start, 1), stream, start, 1)


def test_only_the_block_of_a_single_record_is_read(log: LogMaker, reads: Reads) -> None:
    for _ in range(60):
        log.add((1, [data_of(1, log.next_offset[1], 20_000)]), (2, [data_of(2, log.next_offset[2], 10)]))
    fill_ring(log)
    write_sides(log)
    reads.clear()
    check(log.reader().read(2, 33, 1), 2, 33, 1, 10)
    assert reads.bytes <= 20_000 + 2 * PAGE < log.segment_bytes
    assert HEADER_BYTES == PAGE
