"""Damage denies what it covers, and no more: readers, verify and salvage say the same of it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import ringwal
from ringwal._native import ffi
from ringwal.errors import CorruptionError
from ringwal.log.recovery import recover
from ringwal.log.salvage import salvage
from ringwal.log.verify import Place, verify
from tests.support.log_maker import LogMaker, add, check, data_of, fill_ring
from tests.support.log_place import log_at
from tests.support.log_sides import write_sides
from tests.support.log_writer import CONFIG, Block, LogWriter

BLOCK, FRAME = ffi.sizeof("rw_block"), ffi.sizeof("rw_frame")
SIZE = 40
HEADER_BYTE, PAYLOAD_BYTE = 24, FRAME + 4


def block_of_five(log: LogMaker, size: int = SIZE) -> int:
    """Five frames with a record each, of streams 1, 2, 1, 1, 2."""
    batches, after = [], list(log.next_offset)
    for stream in (1, 2, 1, 1, 2):
        batches.append((stream, [data_of(stream, after[stream], size)]))
        after[stream] += 1
    return log.add(*batches)


def frame_at(number: int, size: int = SIZE) -> int:
    return BLOCK + number * (FRAME + size)


def denied(log: LogMaker, stream: int, offset: int) -> int:
    """Up to where, as a reader is told that comes there first."""
    with pytest.raises(CorruptionError) as caught:
        log.reader().read(stream, offset)
    assert (caught.value.stream, caught.value.first_offset) == (f"s{stream}", offset)
    assert caught.value.next_offset is not None
    return caught.value.next_offset


@pytest.mark.parametrize("sides", [True, False])
def test_a_damaged_payload_denies_the_records_of_its_frame(log: LogMaker, sides: bool) -> None:
    places = [block_of_five(log) for _ in range(3)]
    fill_ring(log)
    while log.position < log.segment_bytes:
        add(log, 3, size=9000)
    if sides:
        assert write_sides(log) == [0]
    log.damage(places[1], frame_at(2) + PAYLOAD_BYTE)
    reader = log.reader()
    check(reader.read(1, 0), 1, 0, 4, SIZE)
    for each in (reader, log.reader()):
        with pytest.raises(CorruptionError) as caught:
            each.read(1, 4)
        assert (caught.value.first_offset, caught.value.next_offset) == (4, 5)
        assert (caught.value.segment, caught.value.position) == (0, places[1])
    check(reader.read(1, 5), 1, 5, 4, SIZE)
    check(reader.read(2, 0), 2, 0, 6, SIZE)
    log.damage(places[1], frame_at(3) + PAYLOAD_BYTE)
    assert denied(log, 1, 4) == denied(log, 1, 5) == 6
    log.damage(places[2], frame_at(0) + PAYLOAD_BYTE)
    assert denied(log, 1, 4) == denied(log, 1, 6) == 7, "it goes on inside a block that is damaged, too"


@pytest.mark.parametrize("sides", [True, False])
def test_a_damaged_frame_header_denies_the_rest_of_its_block(log: LogMaker, sides: bool) -> None:
    places = [block_of_five(log) for _ in range(3)]
    fill_ring(log)
    while log.position < log.segment_bytes:
        add(log, 3, size=9000)
    if sides:
        write_sides(log)
    log.damage(places[1], frame_at(2) + HEADER_BYTE)
    for start in range(4):
        check(log.reader().read(1, start), 1, start, 4 - start, SIZE)
    check(log.reader().read(2, 2), 2, 2, 1, SIZE)
    assert (denied(log, 1, 4), denied(log, 1, 5), denied(log, 2, 3)) == (6, 6, 4)
    check(log.reader().read(1, 6), 1, 6, 3, SIZE)


def test_a_damaged_frame_of_a_large_block_is_named(tmp_path: Path) -> None:
    log = LogMaker(tmp_path, ring_bytes=1 << 23, segment_bytes=1 << 24)
    log.begin_epoch()
    size = 500_000
    place = block_of_five(log, size)
    block_of_five(log, size)
    fill_ring(log)
    log.damage(place, frame_at(3, size) + HEADER_BYTE)
    for start in range(2):
        check(log.reader().read(1, start), 1, start, 2 - start, size)
    assert (denied(log, 1, 2), denied(log, 2, 1)) == (3, 2)
    log.close()


# ---------------------------------------------------------------------------- readers, verify and salvage side by side


def written(directory: Path, chance: random.Random) -> tuple[LogWriter, list[tuple[Block, list[int]]]]:
    """A log at rest, and where its blocks have frames."""
    log, blocks = LogWriter(directory, recover(log_at(directory), CONFIG)), list[tuple[Block, list[int]]]()
    for stream in range(3):
        log.put((stream, b"first"))
    for _ in range(12):
        at, places, batches = BLOCK, [], []
        for _ in range(chance.randrange(1, 9)):
            data = [chance.randbytes(chance.randrange(300)) for _ in range(chance.randrange(2, 6))]
            batches.append((chance.randrange(3), data))
            places.append(at)
            at += FRAME + (4 * len(data) + sum(map(len, data)) + 7) // 8 * 8
        blocks.append((log.put(*batches), [*places, at]))
        if chance.random() < 0.2:
            log.end()
    return LogWriter(directory, recover(log_at(directory), CONFIG)), blocks


def lost(places: list[Place]) -> set[tuple[str | None, int]]:
    losses = [loss for place in places for loss in place.losses]
    return {(loss.name, offset) for loss in losses for offset in range(loss.first_offset, loss.next_offset)}


def skipped(directory: Path) -> set[tuple[str | None, int]]:
    """What a reader goes without that goes on from each `next_offset`; so does each that begins at any place."""
    gone: set[tuple[str | None, int]] = set()
    with ringwal.open_readonly(directory) as log:
        for info in log.streams():
            stream, offset = log.stream(info.name), 0
            while offset < info.confirmed_offset:
                try:
                    for record in stream.records(offset):
                        offset = record.offset + 1
                except CorruptionError as damage:
                    gap = damage.stream, damage.first_offset, damage.next_offset or 0
                else:
                    break
                assert gap == (info.name, offset, max(gap[2], offset + 1))
                gone |= {(info.name, each) for each in range(offset, gap[2])}
                offset = gap[2]
            mine = {offset for name, offset in gone if name == info.name}
            edges = {offset for each in mine for offset in (each - 1, each, each + 1)}
            for offset in sorted(edges & set(range(info.confirmed_offset))):
                with ringwal.open_readonly(directory) as another:
                    try:
                        assert another.stream(info.name).read(offset, 1)[0].offset == offset
                        assert (info.name, offset) not in gone
                    except CorruptionError:
                        assert (info.name, offset) in gone
    return gone


def test_two_places_in_a_row_are_lost_together(tmp_path: Path) -> None:
    log = LogWriter(tmp_path / "log", recover(log_at(tmp_path / "log"), CONFIG))
    log.put((0, b"a"))
    blocks = [log.put((0, b"b"), (0, b"c")) for _ in range(2)]
    log = LogWriter(log.directory, recover(log_at(log.directory), CONFIG))
    log.flip(blocks[0].position + BLOCK + HEADER_BYTE)
    log.flip(blocks[1].position + BLOCK + FRAME)
    told = {("s0", offset) for offset in (1, 2, 3)}
    assert lost(verify(log_at(log.directory), deep=True).places) == skipped(log.directory) == told
    made = salvage(log_at(log.directory), tmp_path / "saved")
    assert lost(made.holes) == skipped(tmp_path / "saved") == told


@pytest.mark.parametrize("seed", range(6))
def test_readers_and_verify_and_salvage_say_the_same_of_random_damage(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    log, blocks = written(tmp_path / "log", chance)
    for _ in range(chance.randrange(1, 5)):
        block, frames = chance.choice(blocks)
        place = chance.randrange(frames[0], frames[-1])
        if chance.random() < 0.3:
            place = chance.choice(frames[:-1]) + HEADER_BYTE
        log.flip(block.position + place, chance.randrange(8))
    told = lost(verify(log_at(log.directory), deep=True).places)
    assert skipped(log.directory) == told
    made = salvage(log_at(log.directory), tmp_path / "saved")
    assert lost(made.holes) == told
    assert skipped(tmp_path / "saved") == told
