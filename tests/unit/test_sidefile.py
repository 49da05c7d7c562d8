"""Side files: they say what the segment says, or they are not there."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringwal._native import ffi, lib
from ringwal.errors import CorruptionError
from ringwal.log import checkpoint_file, segment, sidefile
from ringwal.log import manifest as manifests
from ringwal.log.checkpoint import Checkpoint, pack
from ringwal.log.manifest import Manifest
from ringwal.log.sidefile import SideFile, Span, Unproven
from tests.faults import decode_side
from tests.support.log_maker import PAGE, UUID, LogMaker
from tests.support.log_place import log_at

SEGMENT = 1 << 18
STREAMS = range(1, 40)


class Sided:
    """A log of several segments and epochs, and the side files of all that lie below its checkpoint."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = LogMaker(directory, segment_bytes=SEGMENT, streams=64)
        self.held: dict[int, dict[int, list[tuple[int, int, int]]]] = {}  # segment: stream: (offset, count, position)
        self.clock = 1000
        chance = random.Random(7)
        for _ in range(4):
            self.log.begin_epoch()
            for _ in range(90):
                self.add(chance)
        self.log.begin_epoch(segment=self.log.position // SEGMENT + 1)
        self.at = log_at(directory)
        self.manifest: Manifest = manifests.load(self.at)
        self.checkpoint: Checkpoint = checkpoint_file.load(self.at, self.manifest)
        self.end = sidefile.limit(self.manifest)
        self.write()

    def add(self, chance: random.Random) -> None:
        chosen = chance.sample(STREAMS, chance.randrange(1, 9))
        before = list(self.log.next_offset)
        batches = [(stream, [b"x" * chance.randrange(900)] * chance.randrange(1, 4)) for stream in chosen]
        self.clock += chance.randrange(3)
        position = self.log.add(*batches, timestamp_ns=self.clock)
        for stream, data in batches:
            of = self.held.setdefault(position // SEGMENT, {}).setdefault(stream, [])
            of.append((before[stream], len(data), position))

    def write(self) -> None:
        ends = b""
        for number in range(self.end):
            maker = self.gathered(number)
            ends = sidefile.write(self.at, self.manifest, self.checkpoint, number, maker, ends)

    def gathered(self, number: int) -> sidefile.Maker:
        epochs = sidefile.extents_of(self.checkpoint, SEGMENT, number)
        return sidefile.gather(self.at, self.manifest, epochs, number, direct=False)

    def path(self, number: int) -> Path:
        return self.directory / "segments" / sidefile.name_of(number)

    def open(self, number: int) -> SideFile | None:
        return SideFile.open(self.at, UUID, SEGMENT, number)

    def opened(self, number: int) -> SideFile:
        found = self.open(number)
        assert found is not None
        return found

    def close(self) -> None:
        self.log.close()
        self.at.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sided]:
    sided = Sided(tmp_path_factory.mktemp("sided") / "log")
    yield sided
    sided.close()


def test_it_says_where_every_record_is_and_nothing_else(made: Sided) -> None:
    assert made.end > 4
    reach: dict[int, int] = {}
    for number in range(made.end):
        side = made.opened(number)
        held = made.held.get(number, {})
        for stream in range(64):
            of = held.get(stream)
            if of is None:
                assert side.span(stream) is None
                assert side.find(stream, reach.get(stream, 0)) is None
            else:
                first, following = of[0][0], of[-1][0] + of[-1][1]
                found = side.span(stream)
                assert found is not None
                assert found[:2] == (first, following)
                for offset, count, position in of:
                    assert {side.find(stream, offset + i) for i in range(count)} == {position}
                assert side.find(stream, following) is None
                assert first == 0 or side.find(stream, first - 1) is None
                reach[stream] = following
            assert side.end(stream) == reach.get(stream)


def test_what_an_independent_reader_finds_in_it_is_what_the_segment_has(made: Sided) -> None:
    for number in range(made.end):
        decode_side.check(made.directory, number)


def test_times_lead_to_the_first_block_that_is_not_older(made: Sided) -> None:
    for number in range(made.end):
        side = made.opened(number)
        blocks = list(side.each_block())
        assert [block.position for block in blocks] == sorted(block.position for block in blocks)
        for ns in {0, 1, *(block.newest_ns + step for block in blocks for step in (-1, 0, 1))}:
            expected = next((block for block in blocks if block.newest_ns >= max(ns, 0)), None)
            assert side.at_time(max(ns, 0)) == expected
        assert side.newest_ns == blocks[-1].newest_ns
        assert side.oldest_ns <= side.newest_ns


def test_what_is_alive_is_what_lies_behind_the_starts(made: Sided) -> None:
    chance = random.Random(5)
    rows = made.checkpoint.rows()
    for _ in range(20):
        starts = {row.number: chance.choice((0, row.next_offset, chance.randrange(row.next_offset + 1))) for row in rows}
        for number in chance.sample(list(starts), 5):
            del starts[number]  # deleted
        streams = pack([row._replace(start_offset=starts[row.number]) for row in rows if row.number in starts])
        for number in range(made.end):
            size, blocks = made.opened(number).live(streams)
            expected = {
                position
                for stream, of in made.held.get(number, {}).items()
                for offset, count, position in of
                if stream in starts and offset + count > starts[stream]
            }
            assert {block.position for block in blocks} == expected
            assert size == sum(block.length for block in blocks)


def test_only_what_is_asked_for_is_read(made: Sided) -> None:
    number = max(made.held, key=lambda number: len(made.held[number]) if number < made.end else 0)
    side = made.opened(number)
    at_first = side.bytes_read
    assert at_first < side.size
    stream = next(iter(made.held[number]))
    assert side.end(stream) is not None
    assert side.bytes_read == at_first + PAGE
    assert side.end(stream) is not None
    assert side.bytes_read == at_first + PAGE


def answers(side: SideFile) -> list[object]:
    """All that it has to say, each answer by itself: what cannot be believed is None."""
    found: list[object] = []
    for stream in (0, 1, 2, 17, 39, 63):
        for ask in (side.span, side.end, lambda stream: side.find(stream, 3), lambda stream: side.find(stream, 40)):
            try:
                found.append((ask(stream),))
            except Unproven:
                found.append(None)
    for rows in (side.occupants, side.ends, side.epochs, lambda: list(side.each_block()), lambda: side.at_time(1100)):
        try:
            found.append((rows(),))
        except Unproven:
            found.append(None)
    return [*found, (side.newest_ns, side.oldest_ns, side.streams, side.blocks)]


def is_right(found: list[object], right: list[object]) -> bool:
    return all(one is None or one == other for one, other in zip(found, right, strict=True))


def test_a_damaged_bit_is_noticed_or_does_not_matter(made: Sided) -> None:
    number = made.end - 2
    path, right = made.path(number), answers(made.opened(number))
    assert None not in right
    data = path.read_bytes()
    noticed = 0
    chance = random.Random(3)
    places = {*range(8 * 112), *(8 * (PAGE + byte) for byte in range(64)), *chance.sample(range(8 * len(data)), 1500)}
    try:
        for bit in sorted(places):
            bad = bytearray(data)
            bad[bit // 8] ^= 1 << bit % 8
            path.write_bytes(bad)
            side = made.open(number)
            found = None if side is None else answers(side)
            assert found is None or is_right(found, right), f"bit {bit}"
            noticed += found is None or None in found
            if bit < 8 * 112:
                assert side is None, f"bit {bit} of the header"
        assert noticed > 1000
    finally:
        path.write_bytes(data)


def test_a_file_that_is_torn_foreign_or_of_another_kind_is_not_there(made: Sided, tmp_path: Path) -> None:
    number = made.end - 2
    path = made.path(number)
    data, other = path.read_bytes(), made.path(number - 1).read_bytes()
    right = answers(made.opened(number))
    try:
        for bad in (b"", data[:100], data[:PAGE], data[:-PAGE], data[:-1], data + bytes(PAGE), other, bytes(len(data))):
            path.write_bytes(bad)
            assert made.open(number) is None
        path.write_bytes(data)
        assert SideFile.open(made.at, bytes(16), SEGMENT, number) is None
        assert SideFile.open(made.at, UUID, 2 * SEGMENT, number) is None
        side = made.opened(number)
        with path.open("r+b") as file:
            file.truncate(PAGE)
        assert is_right(answers(side), right), "cut off under a reader's hands"
        path.unlink()
        assert made.open(number) is None
        path.symlink_to(made.path(number - 1))
        assert made.open(number) is None
        path.unlink()
        path.mkdir()
        assert made.open(number) is None
        path.rmdir()
    finally:
        path.write_bytes(data)


def test_a_forged_file_with_right_checksums_leads_nowhere_else(made: Sided) -> None:
    """Checksums keep accidents out; numbers are bounded all the same."""
    number = made.end - 2
    path = made.path(number)
    data = path.read_bytes()
    chance = random.Random(11)
    begin, end = number * SEGMENT, (number + 1) * SEGMENT
    try:
        for _ in range(600):
            path.write_bytes(decode_side.forged(data, chance))
            side = made.open(number)
            if side is None:
                continue
            for stream in STREAMS:
                for offset in (0, 3, 40, 1 << 40):
                    try:
                        position = side.find(stream, offset)
                    except Unproven:
                        continue
                    assert position is None or (begin <= position < end and position % PAGE == 0)
            answers(side)
    finally:
        path.write_bytes(data)


def test_what_the_ring_gives_is_what_the_segment_gives(tmp_path: Path) -> None:
    log = LogMaker(tmp_path / "log", segment_bytes=SEGMENT, ring_bytes=1 << 20, streams=8)
    log.begin_epoch()
    walk = ffi.new("rw_walk *", {"epoch": log.epoch, "position": log.position})
    ffi.memmove(walk.uuid, UUID, len(UUID))
    first = log.position
    while log.position < SEGMENT:
        log.add((1, [b"a" * 700] * 2), (3, [b"b"]))
    followed = sidefile.Maker()
    for end in (SEGMENT // 2 // PAGE * PAGE, SEGMENT):
        assert lib.rw_side_follow(log.control, log.ring, walk, end, followed.pointer) == lib.RW_OK
    assert walk.position == SEGMENT
    log.begin_epoch(segment=2)
    at = log_at(tmp_path / "log")
    manifest = manifests.load(at)
    checkpoint = checkpoint_file.load(at, manifest)
    begin, *_ = checkpoint.epochs
    epochs = [begin._replace(begin=first, end=SEGMENT)]
    read = sidefile.gather(at, manifest, epochs, 0, direct=False)
    files = []
    for maker in (followed, read):
        sidefile.write(at, manifest, checkpoint, 0, maker, b"")
        files.append((tmp_path / "log" / "segments" / sidefile.name_of(0)).read_bytes())
    assert files[0] == files[1]
    log.close()


def test_a_ring_that_has_moved_on_is_said(tmp_path: Path) -> None:
    log = LogMaker(tmp_path / "log", segment_bytes=SEGMENT, streams=8)
    log.begin_epoch()
    walk = ffi.new("rw_walk *", {"epoch": log.epoch, "position": log.position})
    ffi.memmove(walk.uuid, UUID, len(UUID))
    while lib.rw_log_low(log.control) <= walk.position:
        log.add((1, [b"a" * 700]))
    maker = sidefile.Maker()
    assert lib.rw_side_follow(log.control, log.ring, walk, log.position, maker.pointer) == lib.RW_OVERWRITTEN
    log.close()


def test_there_is_none_of_a_segment_that_may_still_be_cut(made: Sided) -> None:
    maker = made.gathered(made.end - 1)
    with pytest.raises(ValueError, match="not below the checkpoint"):
        sidefile.write(made.at, made.manifest, made.checkpoint, made.end, maker, b"")
    assert not made.path(made.end).exists()


def test_a_damaged_segment_gives_none(tmp_path: Path) -> None:
    sided = Sided(tmp_path / "log")
    stream, of = next(iter(sided.held[1].items()))
    sided.log.damage(of[0][2], 128 + 88 + 3)
    with pytest.raises(CorruptionError):
        sided.gathered(1)
    segment_file = sided.log.segment_file(2)
    segment_file.unlink()
    with pytest.raises(CorruptionError):
        sided.gathered(2)
    assert sided.opened(1).span(stream) == Span(of[0][0], of[-1][0] + of[-1][1], sided.opened(1).span(stream)[2])  # type: ignore[index]
    sided.close()


def test_a_start_clears_what_is_left_over(made: Sided) -> None:
    segments = made.directory / "segments"
    strays = [made.path(made.end), made.path(made.end + 7), segments / (sidefile.name_of(1) + sidefile.DRAFT_SUFFIX)]
    for stray in strays:
        stray.write_bytes(b"x")
    other = segments / "notes.side"
    other.write_bytes(b"x")
    assert segment.numbers(made.at) == sorted(int(path.stem) for path in segments.glob("*.seg"))
    before = sidefile.numbers(made.at)
    sidefile.clear(made.at, made.manifest)
    assert sidefile.numbers(made.at) == [number for number in before if number < made.end]
    assert not any(stray.exists() for stray in strays)
    assert other.exists()
    other.unlink()
