"""Consumers: rows that claims make and commits move, alone and with what else is joined to them; what a successor knows."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from ringwal._native import ffi, lib
from ringwal.client.verdicts import is_fenced, is_joined
from tests.native.test_owners import OWNERS, Owned
from tests.support.core import Wal, handle, take


class Consumed(Owned):
    """With consumers, too."""

    def consume(self, name: bytes, start: int = 0, stream: int = 0, forgets: int = 0) -> int:
        """The request's number."""
        payload = struct.pack("<IIQ", lib.RW_OWNER_CONSUMER, forgets, start) + name
        return self._ask(lib.RW_FRAME_CLAIM, stream, None, payload)

    def place(self, name: bytes, stream: int = 0) -> Any:
        """Its row; None: there is none."""
        found = ffi.new("rw_checkpoint_owner *")
        code = lib.rw_owner_look(self.control, lib.RW_OWNER_CONSUMER, stream, name, len(name), found)
        assert code in (lib.RW_OK, lib.RW_DELETED)
        return found if code == lib.RW_OK else None

    def who(self, name: bytes, stream: int = 0) -> int:
        row = self.place(name, stream)
        return int(row.epoch) << 32 | int(row.number)

    def consumed(self, name: bytes, start: int = 0, stream: int = 0) -> int:
        """What its commits have to say from now on."""
        self.consume(name, start, stream)
        self.settle()
        return self.who(name, stream)

    def fill(self, count: int, stream: int = 0) -> None:
        """Records."""
        for _ in range(count):
            assert lib.rw_submit(self.client.writer, handle(stream), b"r", 1) >= 0
        self.settle()

    def commit(self, who: int, offset: int, stream: int = 0) -> int:
        number = int(lib.rw_submit_commit(self.client.writer, handle(stream), who, offset))
        assert number >= 0
        return number

    def join(self, *parts: tuple[int, int, int] | tuple[int, bytes]) -> int:
        """Of (stream, who, offset), a commit, and (stream, data). The first one's number."""
        kept, table = [], ffi.new("rw_part[]", len(parts))
        for n, part in enumerate(parts):
            if len(part) == 3:
                terms = {"producer": part[1], "sequence": part[2]}
                table[n] = {"stream": handle(part[0]), "terms": terms}
                continue
            data, lengths = ffi.from_buffer("uint8_t[]", part[1]), ffi.new("uint32_t[]", [len(part[1])])
            kept += [data, lengths]
            table[n] = {"stream": handle(part[0]), "lengths": lengths, "count": 1, "data": data, "bytes": len(part[1])}
        number = int(lib.rw_submit_joint(self.client.writer, table, len(parts)))
        assert number >= 0
        return number

    def answers(self, first: int, count: int) -> list[object]:
        """Offsets, or why not."""
        found = [self.answer(self.client, first + i) for i in range(count)]
        return ["fenced" if is_fenced(f) else "joined" if is_joined(f) else f for f in found]

    def goes_on(self, name: bytes, stream: int = 0) -> int:
        return int(self.place(name, stream).next_sequence)

    def frames_of(self, kind: int) -> list[Any]:
        blocks = range(int(self.control.sealed))
        return [record for block in blocks for record in self.records(block) if record.kind == kind]


@pytest.fixture
def world(tmp_path: Path) -> Any:
    with Consumed(tmp_path) as memory:
        lib.rw_writer_grant(memory.client.writer, lib.rw_writer_next(memory.client.writer) + 64)
        yield memory


# ---------------------------------------------------------------------------------------------------------- claims


@pytest.mark.parametrize(("start", "begins"), [(0, 0), (2, 2), (3, 3), (4, 3), (1 << 62, 3)])
def test_a_new_one_begins_where_it_is_said_but_never_beyond_the_end(world: Consumed, start: int, begins: int) -> None:
    world.fill(3)
    assert world.consumed(b"c", start) == 1 << 32 | 1
    assert world.goes_on(b"c") == begins


def test_a_second_claim_keeps_the_position_and_raises_the_epoch(world: Consumed) -> None:
    world.fill(5)
    first = world.consumed(b"c", 1)
    world.commit(first, 4)
    second = world.consumed(b"c", 0)
    assert second == first + (1 << 32)
    assert world.goes_on(b"c") == 4


def test_one_name_is_one_consumer_of_each_stream_and_no_producer(world: Consumed) -> None:
    world.fill(3)
    here, there, appends = world.consumed(b"x", 1), world.consumed(b"x", 0, stream=1), world.claimed(b"x")
    assert len({owner & 0xFFFFFFFF for owner in (here, there, appends)}) == 3
    assert (world.goes_on(b"x"), world.goes_on(b"x", 1), world.row(b"x").next_sequence) == (1, 0, 0)


def test_a_row_of_a_consumer_is_never_taken(world: Consumed) -> None:
    """Neither by a producer, which says whose place it takes, nor by another consumer, which cannot."""
    for n in range(OWNERS):
        world.consumed(b"%d" % n)
    refused = world.claim(b"p"), world.consume(b"one more")
    world.settle()
    assert all(map(world.refused, refused))
    assert [world.goes_on(b"%d" % n) for n in range(OWNERS)] == [0] * OWNERS


def test_a_claim_that_says_so_takes_it_neither(world: Consumed) -> None:
    """Nobody of ours asks that."""
    who = world.consumed(b"c")
    asked = world.claim(b"p", forgets=who & 0xFFFFFFFF, seen_ns=2**63)
    world.settle()
    assert world.refused(asked) and world.place(b"c") is not None
    world.consume(b"d", forgets=99)
    world.settle()
    assert world.slot(4).fault == 1 and world.place(b"d") is None and world.place(b"c") is not None


# --------------------------------------------------------------------------------------------------------- commits


def test_a_commit_moves_it_also_back(world: Consumed) -> None:
    world.fill(6)
    who = world.consumed(b"c")
    asked = []
    for offset in (3, 6, 6, 1, 0, 5):
        asked.append(world.commit(who, offset))
        world.settle()
        assert world.goes_on(b"c") == offset
    assert [world.answer(world.client, number) for number in asked] == [6] * 6
    assert [frame.producer_sequence for frame in world.frames_of(lib.RW_FRAME_COMMIT)] == [0, 3, 6, 6, 1, 0]
    assert world.stream(0).next_offset == world.stream(0).confirmed_offset == 6


def test_commits_of_one_block_say_each_what_went_before(world: Consumed) -> None:
    world.fill(6)
    who = world.consumed(b"c", 1)
    for offset in (3, 2, 6):
        world.commit(who, offset)
    world.settle()
    assert [frame.producer_sequence for frame in world.frames_of(lib.RW_FRAME_COMMIT)] == [1, 3, 2]
    assert world.goes_on(b"c") == 6


def test_a_commit_counts_records_that_stand_in_front_of_it_in_its_block(world: Consumed) -> None:
    who = world.consumed(b"c")
    lib.rw_submit(world.client.writer, handle(0), b"r", 1)
    number = world.commit(who, 1)
    world.settle()
    assert world.answer(world.client, number) == 1 and world.goes_on(b"c") == 1


def test_one_that_is_not_its_owner_is_fenced(world: Consumed) -> None:
    world.fill(3)
    old, appends = world.consumed(b"c"), world.claimed(b"p")
    new = world.consumed(b"c")
    elsewhere = world.consumed(b"c", stream=1)
    asked = [world.commit(who, 1) for who in (old, new + (1 << 32), new & 0xFFFFFFFF, elsewhere, appends, 77 << 32 | 77)]
    asked.append(world.submit(new, 0))
    right = world.commit(new, 2)
    world.settle()
    assert all(is_fenced(world.answer(world.client, number)) for number in asked)
    assert world.answer(world.client, right) == 3 and world.goes_on(b"c") == 2
    assert world.stream(0).next_offset == 3 and world.slot(0).fault == 0
    assert world.row(b"p").next_sequence == 0


def test_a_fence_says_whether_there_is_a_newer_claim(world: Consumed) -> None:
    old = world.consumed(b"c")
    world.consumed(b"c")
    fenced, unknown = world.commit(old, 0), world.commit(1 << 32 | 77, 0)
    world.settle()
    assert [world.answer(world.client, number) & 0xFFFFFFFF for number in (fenced, unknown)] == [2, 0]


def test_a_commit_is_confirmed_behind_what_stands_in_front_of_it(world: Consumed) -> None:
    who = world.consumed(b"c")
    lib.rw_submit(world.client.writer, handle(0), b"r", 1)
    held = world.take()
    number = world.commit(who, 1)
    world.take()
    world.withhold(held)
    world.sequencer.settle()
    assert world.answer(world.client, number) == lib.RW_PENDING
    world.persist(held)
    world.sequencer.settle()
    assert world.answer(world.client, number) == 1


def test_one_that_is_forgotten_has_no_row_and_a_number_of_its_own_later(world: Consumed) -> None:
    world.fill(3)
    old = world.consumed(b"c")
    world.commit(old, 2)
    gone, late = world.commit(old, lib.RW_FORGET), world.commit(old, 3)
    world.settle()
    assert world.answer(world.client, gone) == 3 and is_fenced(world.answer(world.client, late))
    assert world.place(b"c") is None
    new = world.consumed(b"c", 1)
    assert new & 0xFFFFFFFF == (old & 0xFFFFFFFF) + 1 and new >> 32 == 1
    assert world.goes_on(b"c") == 1


def test_it_goes_with_its_stream(world: Consumed) -> None:
    who = world.consumed(b"c")
    world.consumed(b"c", stream=1)
    world.delete(0)
    world.take()
    number = world.commit(who, 0)
    world.settle()
    assert world.answer(world.client, number) == lib.RW_DELETED
    assert world.place(b"c") is None and world.place(b"c", 1) is not None


# ---------------------------------------------------------------------------------------------------------- forged


def test_a_commit_beyond_the_end_refuses_its_lane_alone(world: Consumed) -> None:
    world.fill(3)
    who = world.consumed(b"c")
    world.commit(who, 4)
    world.settle()
    assert world.slot(0).fault == 1 and world.slot(4).fault == 0
    assert world.goes_on(b"c") == 0 and not world.frames_of(lib.RW_FRAME_COMMIT)
    assert world.consumed(b"other") >> 32 == 1


FORGED = {
    "with a sequence": {"producer_sequence": 1},
    "of nobody": {"producer_id": 0},
    "with records": {"count": 1},
    "with own times": {"flags": lib.RW_OWN_TIMES},
    "expecting": {"flags": lib.RW_EXPECTS},
    "too short": {"payload_bytes": 7},
    "another digest": {"digest": 1},
    "of a place that is none": {"place": 1 << 20},
}


@pytest.mark.parametrize("forged", FORGED)
def test_a_forged_commit_refuses_its_lane_alone(world: Consumed, forged: str) -> None:
    world.fill(3)
    who = world.consumed(b"c")
    head = int(world.slot(0).head)
    world.commit(who, 2)
    request = world.client.request(head)
    assert request.kind == lib.RW_FRAME_COMMIT and request.producer_id == who
    for field, value in FORGED[forged].items():
        setattr(request, field, value)
    world.settle()
    assert world.slot(0).fault == 1 and world.slot(4).fault == 0
    assert world.goes_on(b"c") == 0 and not world.frames_of(lib.RW_FRAME_COMMIT)
    assert world.consumed(b"c") == who + (1 << 32)


def test_a_part_that_is_a_forged_commit_refuses_the_lane_and_leaves_nothing(world: Consumed) -> None:
    world.fill(3)
    who = world.consumed(b"c")
    world.join((0, who, 4), (1, b"out"))
    world.settle()
    assert world.slot(0).fault == 1
    assert world.stream(1).next_offset == 0 and world.goes_on(b"c") == 0


def test_a_part_with_a_producers_number_refuses_the_lane(world: Consumed) -> None:
    appends = world.claimed(b"p")
    head = int(world.slot(0).head)
    world.join((0, b"a"), (1, b"b"))
    world.client.request(head).producer_id = appends
    world.settle()
    assert world.slot(0).fault == 1
    assert world.stream(0).next_offset == world.stream(1).next_offset == 0


# ----------------------------------------------------------------------------------------------------------- joint


@pytest.mark.parametrize("first", [True, False])
def test_a_commit_is_a_part_of_a_joint_append(world: Consumed, *, first: bool) -> None:
    stream, out = (0, 1) if first else (1, 0)
    world.fill(4, stream)
    who = world.consumed(b"c", stream=stream)
    parts: list[Any] = sorted([(stream, who, 3), (out, b"out")])
    number = world.join(*parts)
    world.settle()
    assert world.answers(number, 2) == ([4, 0] if first else [0, 4])
    assert world.goes_on(b"c", stream) == 3 and world.stream(out).confirmed_offset == 1
    (frame,) = world.frames_of(lib.RW_FRAME_COMMIT)
    assert (frame.producer_sequence, bool(frame.flags & lib.RW_JOINED)) == (0, first)


def test_several_consumers_commit_together_and_nothing_else(world: Consumed) -> None:
    world.fill(2)
    world.fill(2, 1)
    here, there = world.consumed(b"c"), world.consumed(b"c", stream=1)
    number = world.join((0, here, 2), (1, there, 1))
    world.settle()
    assert world.answers(number, 2) == [2, 2]
    assert (world.goes_on(b"c"), world.goes_on(b"c", 1)) == (2, 1)


def test_a_fenced_commit_refuses_the_other_parts(world: Consumed) -> None:
    world.fill(4)
    world.fill(1, 2)
    old, other = world.consumed(b"c"), world.consumed(b"d", stream=2)
    world.consumed(b"c")
    number = world.join((0, old, 3), (1, b"out"), (2, other, 1))
    behind = world.join((1, b"right"), (2, other, 1))
    world.settle()
    assert world.answers(number, 3) == ["fenced", "joined", "joined"]
    assert world.answers(behind, 2) == [0, 1]
    assert world.goes_on(b"c") == 0 and world.stream(1).next_offset == 1 and world.slot(0).fault == 0


def test_a_refused_batch_refuses_the_commit(world: Consumed) -> None:
    world.fill(2)
    who = world.consumed(b"c")
    world.delete(1)
    world.take()
    number = world.join((0, who, 1), (1, b"out"))
    world.settle()
    found = [world.answer(world.client, number + n) for n in range(2)]
    assert is_joined(found[0]) and found[1] == lib.RW_DELETED
    assert world.goes_on(b"c") == 0


# ------------------------------------------------------------------------------------------------------- successors


def rows_of(world: Consumed) -> list[bytes]:
    return [bytes(ffi.buffer(lib.rw_owner_of(world.control, place), 192)) for place in range(OWNERS)]


def succeed(world: Consumed, block: int, rows: list[bytes], heads: tuple[int, int], *, torn: bool = False) -> None:
    """Another WAL process goes on where its predecessor had sealed that block and stored these rows."""
    for place, image in enumerate(rows):
        row = lib.rw_owner_of(world.control, place)
        changed = bytes(ffi.buffer(row, 192)) != image
        number, following = row.number, row.next_sequence
        ffi.memmove(row, image, len(image))
        if torn and changed:
            row.turn += 1
            if row.number == number:
                row.next_sequence = following
            else:
                row.number = 0
    world.slot(0).head, world.slot(4).head = heads
    world.withhold(block)
    with Wal(world, world.directory) as successor:
        successor.add_segments(range(2))
        assert lib.rw_wal_restore(successor.wal) == 1
        assert lib.rw_wal_rewrite(successor.wal) == lib.RW_OK


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("change", ["claim, commits", "commit, forget", "joint", "forget, claim", "commit, claim"])
def test_a_successor_has_the_same_rows(world: Consumed, change: str, *, torn: bool) -> None:
    """Killed after seal, before any row was stored, or while each was."""
    world.fill(6)
    world.fill(2, 1)
    who, other = world.consumed(b"c"), world.consumed(b"d", stream=1)
    world.commit(who, 1)
    world.settle()
    before, heads = rows_of(world), (int(world.slot(0).head), int(world.slot(4).head))
    if change == "claim, commits":
        world.consume(b"new", 2)
        world.commit(who, 5)
        world.commit(who, 3)
    elif change == "commit, forget":
        world.commit(who, 4)
        world.commit(who, lib.RW_FORGET)
    elif change == "joint":
        world.join((0, who, 4), (1, other, 2), (2, b"out"))
        world.join((0, who, 2), (2, b"out"))
    elif change == "forget, claim":
        world.commit(who, lib.RW_FORGET)
        world.consume(b"c", 3)
    else:
        world.commit(who, 4)
        world.consume(b"c")
    block = world.take()
    after, end = world.owners(), int(world.control.owners_end)
    succeed(world, block, before, heads, torn=torn)
    assert world.owners() == after and world.control.owners_end == end
    world.sequencer.settle()
    assert world.slot(0).fault == 0
    right = world.commit(world.who(b"d", 1), 1, stream=1)
    world.settle()
    assert world.answer(world.client, right) == 2 and world.goes_on(b"d", 1) == 1


@pytest.mark.parametrize("stored", [False, True])
def test_a_successor_needs_no_place_for_whom_the_same_block_forgets(world: Consumed, *, stored: bool) -> None:
    """A claim, a commit of whoever guessed its number that forgets it, and a claim that took the place."""
    for n in range(OWNERS - 1):
        world.consumed(b"%d" % n)
    before, heads = rows_of(world), (int(world.slot(0).head), int(world.slot(4).head))
    assert lib.rw_submit(world.client.writer, handle(0), b"r", 1) >= 0
    world.commit(1 << 32 | OWNERS, lib.RW_FORGET)
    world.consume(b"doomed")
    world.consume(b"last")
    block = int(world.control.sealed)
    take(world, world.directory, quota=1)  # a request of each lane in turn
    kinds = [frame.kind for frame in world.records(block)]
    assert kinds == [lib.RW_FRAME_BATCH, lib.RW_FRAME_CLAIM, lib.RW_FRAME_COMMIT, lib.RW_FRAME_CLAIM]
    after = world.owners()
    assert world.place(b"doomed") is None and world.place(b"last") is not None
    succeed(world, block, rows_of(world) if stored else before, heads)
    assert world.owners() == after
