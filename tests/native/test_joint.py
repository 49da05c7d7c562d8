"""Joint appends: batches of several streams that are in the log together, confirmed together, or refused together."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ringwal._native import ffi, lib
from tests.support.core import KIB, REQUEST, STREAMS, Memory, Sequencer, Writer, handle, take

NUMBERS = 1 << 20


class World(Memory):
    def __init__(self, directory: Path, **options: Any) -> None:
        super().__init__(completions=256, **options)
        self.directory = directory
        self.client = Writer(self, 0)
        lib.rw_writer_grant(self.client.writer, (1 << 32) + NUMBERS)
        self.sequencer = Sequencer(self)

    def submit(self, *parts: tuple[int, Sequence[bytes]], expects: int | None = None) -> int:
        """The number of the first part, or the status. ``expects`` is the first part's offset."""
        kept, table = [], ffi.new("rw_part[]", len(parts))
        for n, (stream, records) in enumerate(parts):
            data = ffi.from_buffer("uint8_t[]", b"".join(records))
            lengths = ffi.new("uint32_t[]", list(map(len, records)))
            kept += [data, lengths]
            terms = {"sequence": expects, "flags": lib.RW_EXPECTS} if expects is not None and n == 0 else {}
            table[n] = {
                "stream": handle(stream), "lengths": lengths, "count": len(records), "data": data,
                "bytes": sum(map(len, records)), "terms": terms,
            }  # fmt: skip
        return int(lib.rw_submit_joint(self.client.writer, table, len(parts)))

    def one(self, stream: int, data: bytes = b"alone") -> int:
        number = int(lib.rw_submit(self.client.writer, handle(stream), data, len(data)))
        assert number >= 0
        return number

    def take(self) -> int:
        first = int(self.control.sealed)
        take(self, self.directory)
        return first

    def withhold(self, *blocks: int) -> None:
        """As if their writes were still on their way."""
        for block in blocks:
            for record in self.records(block):
                record.persisted = 0
            self.entry(block).state = lib.RW_BLOCK_SEALED

    def answers(self, first: int, count: int) -> list[int]:
        return [int(lib.rw_completion_poll(self.client.writer, first + i)) for i in range(count)]

    def confirmed(self) -> list[int]:
        return [self.stream(n).confirmed_offset for n in range(3)]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as memory:
        yield memory


def reason(answer: int) -> int:
    return answer >> 56 & 0x7F


def test_parts_stand_one_behind_the_other_behind_their_definitions(world: World) -> None:
    first = world.submit((0, [b"a"]), (1, [b"b", b"bb"]), (5, [b""]))
    block = world.take()
    found = [(r.kind, r.stream, r.flags) for r in world.records(block)]
    assert found == [
        *((lib.RW_FRAME_STREAM, stream, 0) for stream in (0, 1, 5)),
        *((lib.RW_FRAME_BATCH, stream, flags) for stream, flags in ((0, lib.RW_JOINED), (1, lib.RW_JOINED), (5, 0))),
    ]
    world.sequencer.settle()
    assert world.answers(first, 3) == [0, 0, 0]
    assert world.control.released == world.control.sealed


def test_nothing_is_confirmed_before_every_part_is_due(world: World) -> None:
    """Stream 0 is ready early, stream 1 has a predecessor that is still out; what follows in stream 0 waits, too."""
    world.one(1)
    early = world.take()
    first = world.submit((0, [b"x"]), (1, [b"y"]))
    joint = world.take()
    behind = world.one(0)
    late = world.take()
    world.withhold(early)
    world.sequencer.settle()
    assert world.confirmed() == [0, 0, 0]
    assert world.answers(first, 2) == [lib.RW_PENDING] * 2 and world.answers(behind, 1) == [lib.RW_PENDING]
    world.persist(early)
    world.sequencer.settle()
    assert world.confirmed() == [2, 2, 0]
    assert world.answers(first, 2) == [0, 1] and world.answers(behind, 1) == [1]
    assert (joint, late) == (early + 1, early + 2) and world.control.released == late + 1


def test_a_successor_of_a_drain_that_died_between_two_parts_confirms_the_rest(world: World) -> None:
    world.one(1)
    first = world.submit((0, [b"x", b"x"]), (1, [b"y"]), (2, [b"z"]))
    world.take()
    for stream, offset in ((1, 2), (0, 2)):  # what its predecessor stored before it died
        world.stream(stream).confirmed_offset = offset
    world.sequencer = Sequencer(world)
    world.sequencer.settle()
    assert world.confirmed() == [2, 2, 1]
    assert world.answers(first, 3) == [0, 1, 0]
    assert world.control.released == world.control.sealed


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_order_of_the_disks_all_is_confirmed_in_order_and_together(world: World, seed: int) -> None:
    chance = random.Random(seed)
    blocks, joints = [], []
    for _ in range(60):
        streams = sorted(chance.sample(range(4), chance.randint(1, 4)))
        if len(streams) == 1:
            world.one(streams[0])
        else:
            joints.append(streams)
            world.submit(*((stream, [b"r"]) for stream in streams))
        if chance.random() < 0.7:
            blocks.append(world.take())
    blocks.append(world.take())
    ends: dict[int, int] = dict.fromkeys(range(4), 0)
    parts = []  # of each joint append: the end of each part
    for block in blocks:
        open_part: list[tuple[int, int]] = []
        for frame in world.records(block):
            if frame.kind != lib.RW_FRAME_BATCH:
                continue
            ends[frame.stream] = frame.base_offset + frame.count
            open_part.append((frame.stream, ends[frame.stream]))
            if not frame.flags & lib.RW_JOINED:
                parts.append(open_part)
                open_part = []
    assert [[stream for stream, _ in each] for each in parts if len(each) > 1] == joints
    world.withhold(*blocks)
    for block in chance.sample(blocks, len(blocks)):
        world.persist(block)
        if chance.random() < 0.3:
            world.sequencer = Sequencer(world)
        world.sequencer.settle()
        confirmed = [world.stream(n).confirmed_offset for n in range(4)]
        for each in parts:
            assert len({confirmed[stream] >= end for stream, end in each}) == 1, (each, confirmed)
    assert [world.stream(n).confirmed_offset for n in range(4)] == [ends[n] for n in range(4)]
    assert world.control.released == world.control.sealed


def test_one_part_that_is_refused_refuses_all(world: World) -> None:
    first = world.submit((0, [b"x"]), (1, [b"y"]), expects=7)
    after = world.one(0)
    world.take()
    world.sequencer.settle()
    assert list(map(reason, world.answers(first, 2))) == [lib.RW_VERDICT_OFFSET, lib.RW_VERDICT_JOINED]
    assert world.answers(after, 1) == [0]
    again = world.submit((0, [b"x"]), (1, [b"y"]), expects=1)
    world.take()
    world.sequencer.settle()
    assert world.answers(again, 2) == [1, 0]


def test_what_makes_no_sense_is_not_published(world: World) -> None:
    assert world.submit((1, [b"x"]), (0, [b"y"])) == lib.RW_BAD
    assert world.submit((1, [b"x"]), (1, [b"y"])) == lib.RW_BAD
    assert world.submit() == lib.RW_BAD
    limit, begin = lib.rw_writer_record_limit(world.client.writer), world.client.lane.claim
    assert world.submit((0, [bytes(limit // 2)]), (1, [bytes(limit // 2)])) == lib.RW_TOO_LARGE
    assert world.client.lane.claim == begin
    assert world.submit((0, [bytes(limit)])) >= 0


def test_numbers_come_in_a_row_or_not_at_all(tmp_path: Path) -> None:
    with Memory(completions=64) as memory:
        client = Writer(memory, 0)
        lib.rw_writer_grant(client.writer, (1 << 32) + 3)
        data, length = ffi.from_buffer("uint8_t[]", b"x"), ffi.new("uint32_t[]", [1])
        table = ffi.new("rw_part[]", 2)
        for n in range(2):
            table[n] = {"stream": handle(n), "lengths": length, "count": 1, "data": data, "bytes": 1}
        assert lib.rw_submit_joint(client.writer, table, 2) == 1 << 32
        assert lib.rw_submit_joint(client.writer, table, 2) == lib.RW_MAINTENANCE
        assert lib.rw_submit(client.writer, handle(0), data, 1) == (1 << 32) + 2


def stamp(request: Any) -> None:
    """As a client would that forges it."""
    request.crc = 0
    request.crc = lib.rw_crc32c(0, request, REQUEST)


FORGERIES = {
    "the last part is joined to nothing": ("flags", lib.RW_JOINED, 1),
    "a part is of the stream before": ("place", 0, 1),
    "a part is of a producer": ("producer_id", 1, 1),
    "a part is no batch": ("kind", lib.RW_FRAME_TRIM, 1),
    "a part has another payload": ("digest", 1, 1),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_a_forged_part_refuses_its_lane_and_leaves_nothing_of_the_others(world: World, what: str) -> None:
    other = Writer(world, 1)
    begin = world.client.lane.claim
    world.submit((0, [b"x"]), (2, [b"y"]))
    field, value, part = FORGERIES[what]
    request = world.client.request(begin + part * (world.client.lane.claim - begin) // 2)
    setattr(request, field, value)
    stamp(request)
    assert other.append(b"unharmed", stream=1) == lib.RW_OK
    world.take()
    world.sequencer.settle()
    assert world.slot(0).fault == 1 and world.slot(1).fault == 0
    assert world.confirmed() == [0, 1, 0]
    assert [frame.stream for frame in world.frames()] == []  # released


def test_a_writer_that_dies_before_the_first_part_has_published_nothing(world: World) -> None:
    begin = world.client.lane.claim
    world.submit((0, [b"x"]), (1, [b"y"]))
    first = world.client.request(begin)
    published, first.valid = first.valid, 0
    world.take()
    assert world.frames() == [] and world.slot(0).fault == 0
    first.valid = published
    world.take()
    assert [frame.stream for frame in world.frames()] == [0, 1]


def test_a_block_is_closed_before_a_joint_append_that_does_not_fit(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        for n in range(6):
            world.submit((0, [bytes(7 * KIB)]), (1 + n, [bytes(7 * KIB)]))
            if n == 2:
                world.take()
        world.take()
        for block in range(world.control.sealed):
            flags = [bool(r.flags & lib.RW_JOINED) for r in world.records(block) if r.kind == lib.RW_FRAME_BATCH]
            assert len(flags) % 2 == 0 and flags == [True, False] * (len(flags) // 2)
        world.sequencer.settle()
        assert world.stream(0).confirmed_offset == 6


def test_as_many_parts_as_there_may_be(world: World) -> None:
    streams = range(STREAMS - 1)
    first = world.submit(*((stream, [b"%d" % stream]) for stream in streams))
    world.take()
    world.sequencer.settle()
    assert world.answers(first, len(streams)) == [0] * len(streams)
    table = ffi.new("rw_part[]", lib.RW_PARTS_MAX + 1)
    assert lib.rw_submit_joint(world.client.writer, table, lib.RW_PARTS_MAX + 1) == lib.RW_BAD
